"""Photographs of any size through a network, within a stated memory: tiles, matching, the stages of RRSR, and `Upscaler`.

An image is computed stage by stage. In each stage tiles overlap by what the stage sees around a pixel, and statistics over the
image are taken over the whole image before the next stage needs them, so the result is that of the network run whole.
"""

LITTLE = 0.05  # a reference that is used for less than this share of the image hardly helps
