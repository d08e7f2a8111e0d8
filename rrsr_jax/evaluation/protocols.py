"""Protocols: which images a test set has, which references they get, and how both are padded.

A column is a way to choose the reference: `bicubic` (no model at all), `reference` (the first one), `level_1` to `level_5`,
`stack` (CUFED5's five references on 500x500 canvases, below each other), `all_references` (likewise, on canvases as large as
needed), `drawn` (one of them, by a fixed seed), `other` (another image of the set, by a fixed seed), `lr_itself` (the
low-resolution input: no reference), `unrelated` (that of another image, half the set away).
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
from rrsr_jax.evaluation.metrics import SSIM_WINDOW

SEED = 20220  # of everything drawn: the same for every run
CANVAS = 500  # CUFED5's, in pixels
BUCKET = 32  # sizes are rounded up to multiples of this many pixels,
MOST_PADDING = 1.5  # and an image may be padded to so many times its rounded size

# The columns of each set if the config names none.
COLUMNS = {
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
# Columns that follow a published protocol.
PUBLISHED_COLUMNS = {
    "cufed5": ("level_1", "level_2", "level_3", "level_4", "level_5", "stack"),
    "sun80": ("drawn",),
    "urban100": ("lr_itself",),
    "manga109": ("other",),
    "wr_sr": ("reference",),
}
NEED_ANOTHER = ("unrelated", "other")


class TestSet(Sequence):
    """The examples of one set, and how to evaluate it.

    Attributes:
      name: as in the config.
      columns: which references to try, after bicubic.
      padded_as_published: whether published columns are padded as in the paper.
    """

    def __init__(self, name: str, config: ConfigDict):
        """Opens the set that the `eval` part of a config names; InputError if something is wrong with either."""
        self.name, base = name, name.partition("/")[0]
        self._examples = _embedded(config) if name == "embedded" else datasets.Prepared(name, config.dir)
        self._length = min(config.limit or len(self._examples), len(self._examples))
        self.padded_as_published = config.exact and base in PUBLISHED_COLUMNS
        if config.references:
            self.columns = tuple(dict.fromkeys(["bicubic", *config.references.split(",")]))
        else:
            self.columns = tuple(c for c in COLUMNS[base] if len(self) > 1 or c not in NEED_ANOTHER)
        number = 1 if name == "embedded" else datasets.BUILDERS[base].REFERENCES
        for column in self.columns:
            level = re.fullmatch(r"level_([1-9]\d*)", column)
            if not level and column not in {c for columns in COLUMNS.values() for c in columns}:
                raise InputError(
                    f"config.eval.references: {column!r} is none of the columns in rrsr_jax/evaluation/protocols.py"
                )
            needed = (
                int(level[1]) if level else {"stack": 5, "reference": 1, "drawn": 1, "all_references": 1}.get(column, 0)
            )
            if number is not None and needed > number:
                raise InputError(f"config.eval.references: {column} needs {needed} reference(s), {name} has {number}")
            if column in NEED_ANOTHER and len(self) < 2:
                raise InputError(
                    f"config.eval.references: {column} takes another image of the set; {name} has one only"
                )

    def identity(self) -> dict[str, Any]:
        """What results depend on, but for the model."""
        written = self._examples.written if isinstance(self._examples, datasets.Prepared) else 0
        # Buckets, and which image is another one, depend on all columns and images.
        return {"written": written, "images": len(self), "columns": self.columns, "exact": self.padded_as_published}

    def exact(self, column: str) -> bool:
        """Whether to pad as the paper does: where the outcome is compared with published figures."""
        return self.padded_as_published and column in PUBLISHED_COLUMNS[self.name.partition("/")[0]]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._examples[index]

    def reference(self, column: str, index: int, example: Mapping[str, Any]) -> np.ndarray:
        """The reference of image `index` by the rule of a column, (., ., 3) uint8."""
        refs = example["refs"]
        rng = np.random.default_rng([SEED, index])
        if column == "lr_itself":
            return downscale(crop_to_multiple(example["hr"]))
        if column == "unrelated":
            other = self[(index + max(1, len(self) // 2)) % len(self)]
            return (other["refs"] or [other["hr"]])[0]
        if column == "other":
            return self[(index + int(rng.integers(1, max(2, len(self))))) % len(self)]["hr"]
        if column == "drawn":
            return refs[rng.integers(len(refs))]
        if column in ("stack", "all_references"):
            return stack(refs, CANVAS if column == "stack" else None)
        number = 1 if column == "reference" else int(column.removeprefix("level_"))
        if number > len(refs):
            raise InputError(f"{example['name']}: {column} needs {number} reference(s), it has {len(refs)}")
        return refs[number - 1]


def test_sets(config: ConfigDict) -> list[TestSet]:
    """The sets that the `eval` part of a config names."""
    if config.border < 0 or config.every < 0 or config.limit < 0:
        raise InputError("config.eval: border, every and limit of at least 0 expected")
    return [TestSet(name, config) for name in config.sets.split(",") if name]


def _embedded(config: ConfigDict) -> list[dict[str, Any]]:
    """Crops of the embedded photographs that training does not see, each with another view as its reference."""
    if config.patch % SCALE_FACTOR or config.patch - 2 * config.border < SSIM_WINDOW:
        raise InputError(
            f"config.eval.patch: a multiple of {SCALE_FACTOR}, at least {SSIM_WINDOW} larger than two borders of "
            f"{config.border}, expected, got {config.patch}"
        )
    names = datasets.EMBEDDED_TEST
    if config.crops < 1 or config.crops % len(names):
        raise InputError(f"config.eval.crops: a multiple of {len(names)} photographs expected, got {config.crops}")
    photographs = datasets.embedded_photographs(names, config.patch)
    rng, examples = np.random.default_rng(SEED), []
    for i in range(config.crops):  # the second half shows another photograph than the first
        which = i * len(names) // config.crops
        hr, ref = random_view(photographs[which], config.patch, rng, corners=2 / 160, whole_pixels=True)
        examples.append({"name": f"{names[which]}_{i}", "hr": hr, "refs": [ref]})
    return examples


def crop_to_multiple(image: np.ndarray) -> np.ndarray:
    """Height and width cropped to multiples of 4."""
    h, w = (n - n % SCALE_FACTOR for n in image.shape[:2])
    return image[:h, :w]


def stack(refs: Sequence[np.ndarray], canvas: int | None = None) -> np.ndarray:
    """References below each other, each at the top left of a black canvas: the five of CUFED5 become 2500 x 500.

    Args:
      refs: (., ., 3) uint8.
      canvas: side of each canvas; if None, the largest height and width among `refs`.
    """
    height, width = (canvas or max(ref.shape[axis] for ref in refs) for axis in (0, 1))
    for ref in refs:
        if ref.shape[0] > height or ref.shape[1] > width:
            raise InputError(
                f"references of at most {height}x{width} pixels expected, got {ref.shape[0]}x{ref.shape[1]}"
            )
    return np.concatenate([_pad(ref, height, width, "constant") for ref in refs])


def paper_inputs(hr: np.ndarray, ref: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`lr` and `ref` as in the published protocol: both images zero-padded to a common size before downsampling."""
    hr, ref = crop_to_multiple(hr), crop_to_multiple(ref)
    height, width = (max(hr.shape[axis], ref.shape[axis]) for axis in (0, 1))
    return downscale(_pad(hr, height, width, "constant")), _pad(ref, height, width, "constant")


def bucket_inputs(hr: np.ndarray, ref: np.ndarray, shape: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """`lr` and `ref` mirrored at the right and bottom to fill a common shape: height and width of `hr`, then of `ref`."""
    h, w, ref_h, ref_w = shape
    lr = downscale(crop_to_multiple(hr))
    return _pad(lr, h // SCALE_FACTOR, w // SCALE_FACTOR, "symmetric"), _pad(ref, ref_h, ref_w, "symmetric")


def buckets(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Few shapes that hold many: for each of `shapes` (height and width of input and reference) the one to pad it to.

    Sizes are rounded up to multiples of `BUCKET` pixels. From the largest down, each then takes the tightest bucket that exists
    already, if that has at most `MOST_PADDING` times its pixels, for both images, and else opens one.
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


def bucket_plan(test_set: TestSet) -> dict[tuple[int, str], tuple[int, ...]]:
    """The shape to pad to, for each image and column that can be read; the others are named when their turn comes."""
    shapes = {}
    wanted = [column for column in test_set.columns if column != "bicubic" and not test_set.exact(column)]
    for index in range(len(test_set)) if wanted else ():
        for column in wanted:
            with contextlib.suppress(InputError):
                example = test_set[index]
                ref = test_set.reference(column, index, example)
                shapes[index, column] = crop_to_multiple(example["hr"]).shape[:2] + ref.shape[:2]
    return dict(zip(shapes, buckets(list(shapes.values())), strict=True))


def _pad(image, height, width, mode):
    return np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode)
