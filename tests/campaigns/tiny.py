"""Runs of every stage that take a second: `tests/campaigns/tiny.py:STAGE` is a config file with rows.

`student` starts from `teacher` in the current folder, and `gan` from `single_image`.
"""

from ml_collections import ConfigDict

from configs import chain, srcnn
from tests.helpers import SMALL

CHANNELS = (4, 6, 8)


def _shrunk(c: ConfigDict) -> ConfigDict:
    c.data.update(name="embedded", patch=32, warp_range=(0.0, 3.0), threads=1, prefetch=2)
    c.eval.update(sets="embedded", crops=4, patch=48, shown=1, sheets=0)
    c.update(batch_size=1, steps=12, log_every=1, checkpoint_every=2, image_every=1_000_000, decay_steps=())
    return c


def _matcher(stage: str) -> ConfigDict:
    c = _shrunk(chain.get_config(stage))
    c.model.channels = CHANNELS
    c.data.patch = 80
    c.eval.patch = 96
    return c


def _rec() -> ConfigDict:
    c = _shrunk(chain.get_config("rec"))
    c.init_from = ""
    c.model.update(features=4, context_blocks=1, alignments=(1, 1, 1), blocks=(1, 1, 1), experts=1, groups=1)
    c.model.update(vgg_channels=CHANNELS, correspondence_channels=CHANNELS)
    return c


def _single_image() -> ConfigDict:
    c = _shrunk(srcnn.get_config())
    c.model.features = (4, 3)
    return c


def _gan() -> ConfigDict:
    """With a generator that compiles fast."""
    c, gan = _single_image(), chain.get_config("gan")
    c.update(stage="gan", init_from="single_image", pixel_steps=6)
    c.update(penalty=gan.penalty, objective=gan.objective, updates=gan.updates)
    c.weights.discriminator = ""
    c.loss = gan.loss
    c.loss.rtrr = 0.0
    c.discriminator = gan.discriminator
    c.discriminator.update(SMALL)
    c.learning_rates.discriminator = 1e-4
    return c


ROWS = {
    "teacher": lambda: _matcher("teacher"),
    "student": lambda: _matcher("student"),
    "rec": _rec,
    "single_image": _single_image,
    "gan": _gan,
}


def get_config(row: str) -> ConfigDict:
    return ROWS[row]()
