"""Test sets: their images, the references that each image is super-resolved with, and how both are padded.

A test set is evaluated once per entry of `config.eval.references`. Each entry names a way to choose the reference image:

bicubic         no model at all: bicubic upsampling
reference       the image's first reference
level_K         its K-th reference (CUFED5: 1 is the most similar, 5 the least)
stack           CUFED5's five references, each on a canvas of 500 x 500, one below the other
all_references  all of its references, one below the other, on canvases as large as the largest
drawn           one of its references, drawn with a fixed seed
other           another image of the set, drawn with a fixed seed
unrelated       the reference of another image, half the set away
lr_itself       the low-resolution input itself: what the model does without a reference
"""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.data import datasets
from rrsr_jax.data.images import downscale, random_view
from rrsr_jax.errors import InputError

SEED = 20220  # of every random draw: the same for every run
CANVAS = 500  # side of CUFED5's canvases in `stack`, in pixels
BUCKET = 32  # sizes are rounded up to multiples of this many pixels,
MOST_PADDING = 1.5  # and padding may multiply the rounded number of pixels by at most this

# The references of each set if the config names none.
DEFAULT_REFERENCES = {
    "cufed5": ("bicubic", "level_1", "stack", "unrelated", "lr_itself"),
    "sun80": ("bicubic", "drawn", "unrelated", "lr_itself"),
    "urban100": ("bicubic", "lr_itself", "unrelated"),
    "manga109": ("bicubic", "other", "lr_itself"),
    "wr_sr": ("bicubic", "reference", "unrelated", "lr_itself"),
    "cufed": ("bicubic", "reference", "unrelated", "lr_itself"),
    "ref_pairs": ("bicubic", "all_references", "unrelated", "lr_itself"),
    "photos": ("bicubic", "lr_itself", "unrelated"),
    "embedded": ("bicubic", "reference", "unrelated", "lr_itself"),
}
# The references that a published protocol uses.
PUBLISHED_REFERENCES = {
    "cufed5": ("level_1", "level_2", "level_3", "level_4", "level_5", "stack"),
    "sun80": ("drawn",),
    "urban100": ("lr_itself",),
    "manga109": ("other",),
    "wr_sr": ("reference",),
}
# How many references of its own an image must have; `level_K` needs K.
NEEDED = {
    "bicubic": 0,
    "lr_itself": 0,
    "unrelated": 0,
    "other": 0,
    "reference": 1,
    "drawn": 1,
    "all_references": 1,
    "stack": 5,
}
NEED_ANOTHER = ("unrelated", "other")  # and these need a second image in the set


# Height and width of the input, height and width of the reference, in pixels.
PairShape = tuple[int, int, int, int]


class TestSet:
    """The examples of one test set, and the references to evaluate it with.

    An example is a dict with `name`, `hr` (., ., 3) uint8, and `refs`, a list of images of that kind.

    Attributes:
      name: as in the config.
      references: ways to choose the reference, see the module's docstring; the first one is `bicubic`.
      published_padding: whether references of a published protocol are padded as published.
    """

    def __init__(self, name: str, config: ConfigDict):
        """Opens a test set.

        Args:
          name: `embedded`, or that of a prepared dataset.
          config: the `eval` part of a config.

        Raises:
          InputError: no such set, or references that the set does not have.
        """
        self.name, self._base = name, name.partition("/")[0]
        self._embedded = {"crops": config.crops, "patch": config.patch} if name == "embedded" else {}
        self._examples = _embedded(config) if name == "embedded" else datasets.Prepared(name, config.dir)
        self._length = min(config.limit or len(self._examples), len(self._examples))
        self.published_padding = config.published_padding and self._base in PUBLISHED_REFERENCES
        if config.references:
            self.references = tuple(dict.fromkeys(["bicubic", *config.references.split(",")]))
        else:
            self.references = tuple(r for r in DEFAULT_REFERENCES[self._base] if len(self) > 1 or r not in NEED_ANOTHER)
        for reference in self.references:
            self._check(reference)

    def _check(self, reference: str) -> None:
        level = re.fullmatch(r"level_([1-9]\d*)", reference)
        if not level and reference not in NEEDED:
            raise InputError(
                f"config.eval.references: {', '.join(NEEDED)} or level_1, level_2, ... expected, got {reference!r}"
            )
        needed = int(level[1]) if level else NEEDED[reference]
        number = 1 if self.name == "embedded" else datasets.BUILDERS[self._base].REFERENCES
        if number is not None and needed > number:
            raise InputError(
                f"config.eval.references: {reference} needs {needed} reference(s), {self.name} has {number}"
            )
        if reference in NEED_ANOTHER and len(self) < 2:
            raise InputError(
                f"config.eval.references: {reference} takes another image of the set, {self.name} has only one"
            )

    def identity(self) -> dict[str, Any]:
        """Everything about the set that results depend on. JSON values."""
        return {
            # Of a prepared dataset, when it was written.
            "written": self._examples.written if isinstance(self._examples, datasets.Prepared) else 0,
            # Buckets, and the choice of another image, depend on all images and references.
            "images": len(self),
            "references": self.references,
            "published_padding": self.published_padding,
            **self._embedded,
        }

    def pads_as_published(self, reference: str) -> bool:
        """Whether this reference is padded as published, so that scores can stand beside published figures."""
        return self.published_padding and reference in PUBLISHED_REFERENCES[self._base]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._examples[index]

    def reference_image(self, reference: str, index: int, example: Mapping[str, Any]) -> np.ndarray:
        """The reference image of one example, (., ., 3) uint8.

        Args:
          reference: how to choose it; not `bicubic`.
          index, example: which example of the set, and the example.

        Raises:
          InputError: the example has too few references, or the image to take instead cannot be read.
        """
        refs = example["refs"]
        rng = np.random.default_rng([SEED, index])
        if reference == "lr_itself":
            return downscale(crop_to_multiple(example["hr"]))
        if reference == "unrelated":
            other = self[(index + max(1, len(self) // 2)) % len(self)]
            return (other["refs"] or [other["hr"]])[0]
        if reference == "other":
            return self[(index + int(rng.integers(1, max(2, len(self))))) % len(self)]["hr"]
        if reference == "drawn":
            return refs[rng.integers(len(refs))]
        if reference in ("stack", "all_references"):
            return stack(refs, CANVAS if reference == "stack" else None)
        number = 1 if reference == "reference" else int(reference.removeprefix("level_"))
        if number > len(refs):
            raise InputError(f"{example['name']}: {reference} needs {number} reference(s), it has {len(refs)}")
        return refs[number - 1]


def test_sets(config: ConfigDict) -> list[TestSet]:
    """The test sets that the `eval` part of a config names; InputError if one is not there."""
    return [TestSet(name, config) for name in config.sets.split(",") if name]


def _embedded(config: ConfigDict) -> list[dict[str, Any]]:
    """Crops of the embedded photographs that training never sees, each with another view of the same place as its reference."""
    names = datasets.EMBEDDED_TEST
    photographs = datasets.embedded_photographs(names, config.patch)
    rng, examples = np.random.default_rng(SEED), []
    for i in range(config.crops):
        which = i * len(names) // config.crops  # `unrelated`, half the set away, is another photograph
        hr, ref = random_view(photographs[which], config.patch, rng, corners=2 / 160, whole_pixels=True)
        examples.append({"name": f"{names[which]}_{i}", "hr": hr, "refs": [ref]})
    return examples


def crop_to_multiple(image: np.ndarray) -> np.ndarray:
    """(H, W, ...) without its last rows and columns, so that both sides are multiples of the scale factor, 4."""
    h, w = (n - n % SCALE_FACTOR for n in image.shape[:2])
    return image[:h, :w]


def stack(refs: Sequence[np.ndarray], canvas: int | None = None) -> np.ndarray:
    """References one below the other, each at the top left of a black canvas: CUFED5's five become (2500, 500, 3).

    Args:
      refs: images (., ., 3) uint8.
      canvas: side of each canvas in pixels; if None, canvases have the largest height and width among `refs`.

    Raises:
      InputError: a reference is larger than its canvas.
    """
    height, width = (canvas or max(ref.shape[axis] for ref in refs) for axis in (0, 1))
    for ref in refs:
        if ref.shape[0] > height or ref.shape[1] > width:
            raise InputError(
                f"references of at most {height}x{width} pixels expected, got {ref.shape[0]}x{ref.shape[1]}"
            )
    return np.concatenate([_pad(ref, height, width, "constant") for ref in refs])


def paper_inputs(hr: np.ndarray, ref: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`lr` and `ref` of the published protocol: `hr` and `ref` are zero-padded to a common size before downsampling."""
    hr, ref = crop_to_multiple(hr), crop_to_multiple(ref)
    height, width = (max(hr.shape[axis], ref.shape[axis]) for axis in (0, 1))
    return downscale(_pad(hr, height, width, "constant")), _pad(ref, height, width, "constant")


def bucket_inputs(hr: np.ndarray, ref: np.ndarray, shape: PairShape) -> tuple[np.ndarray, np.ndarray]:
    """`lr` and `ref`, mirrored at the right and the bottom to fill a bucket.

    Args:
      hr, ref: (., ., 3) uint8.
      shape: the bucket: height and width of `hr`, height and width of `ref`, in pixels.
    """
    h, w, ref_h, ref_w = shape
    lr = downscale(crop_to_multiple(hr))
    return _pad(lr, h // SCALE_FACTOR, w // SCALE_FACTOR, "symmetric"), _pad(ref, ref_h, ref_w, "symmetric")


def buckets(shapes: Sequence[PairShape]) -> list[PairShape]:
    """Chooses few common sizes, so that few are compiled.

    Sizes are rounded up to multiples of `BUCKET` pixels. From the largest to the smallest, each takes the tightest bucket that is
    already open, if neither image then has more than `MOST_PADDING` times its rounded number of pixels. Otherwise it opens one.

    Args:
      shapes: height and width of the input and of the reference, in pixels.

    Returns:
      For each of `shapes` its bucket, of the same form.
    """
    opened, chosen = [], {}
    for shape in sorted(set(shapes), key=math.prod, reverse=True):
        own = tuple(-(-n // BUCKET) * BUCKET for n in shape)

        def fits(bucket, own=own):
            waste = (bucket[0] * bucket[1] / own[0] / own[1], bucket[2] * bucket[3] / own[2] / own[3])
            return all(b >= n for b, n in zip(bucket, own, strict=True)) and max(waste) <= MOST_PADDING

        fitting = [bucket for bucket in opened if fits(bucket)]
        if not fitting:
            opened.append(own)
        chosen[shape] = min(fitting, key=math.prod, default=own)
    return [chosen[shape] for shape in shapes]


def bucket_plan(test_set: TestSet) -> dict[tuple[int, str], PairShape]:
    """The bucket of each (index, reference) that is mirrored into one. Images that cannot be read are left out."""
    shapes = {}
    wanted = [r for r in test_set.references if r != "bicubic" and not test_set.pads_as_published(r)]
    for index in range(len(test_set)) if wanted else ():
        for reference in wanted:
            with contextlib.suppress(InputError):  # named when the image is evaluated
                example = test_set[index]
                ref = test_set.reference_image(reference, index, example)
                shapes[index, reference] = crop_to_multiple(example["hr"]).shape[:2] + ref.shape[:2]
    return dict(zip(shapes, buckets(list(shapes.values())), strict=True))


def _pad(image, height, width, mode):
    return np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode)
