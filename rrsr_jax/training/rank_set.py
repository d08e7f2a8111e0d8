"""What RankSRGAN's Ranker learns from: the same patches of three methods' results, and how NIQE ranks them (Zhang et al. 2019).

The results are the pictures that the evaluation of three runs wrote: of all images that all three have.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from rrsr_jax.data.pictures import read_rgb8
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation.niqe import niqe, sharpness

METHODS = ("srresnet", "srgan", "esrgan")
MOST = 200  # patches of one image
SHARPEST_BLUR = 40 * 96**2 / 296**2  # grey values: what is less sharp is left out
CLEAR = 0.1  # NIQE by which the two GANs have to differ
_PAIRS = ((2, 1), (2, 0), (1, 0))  # of METHODS
_REFERENCE = "lr_itself"


def read(config: ConfigDict) -> list[dict[str, Any]]:
    """The patches: `images` (3, S, S, 3) uint8, in the order of `METHODS`, and `niqe` (3,).

    Windows of `config.data.patch` pixels, `config.rank_set.stride` apart, are kept where the third method's is sharp and where
    NIQE, of blocks of `config.rank_set.block` pixels, tells the last two apart.

    Raises:
      InputError: a run has no results of the test set, or no patch is left.
    """
    fields = config.rank_set
    folders = [pathlib.Path(fields[name], "eval", fields.images.replace("/", "-"), _REFERENCE) for name in METHODS]
    names = [{path.name for path in folder.glob("*.png")} for folder in folders]
    for method, folder, found in zip(METHODS, folders, names, strict=True):
        if not found:
            raise InputError(
                f"config.rank_set.{method}={fields[method]}: pictures expected in {folder}; evaluate that run on "
                f"{fields.images} (config.eval.sets)"
            )
    examples = []
    for name in sorted(set.intersection(*names)):
        results = [read_rgb8(folder / name, config.data.patch)[0] for folder in folders]
        examples += list(_patches(results, config.data.patch, fields.stride, fields.block))[:MOST]
    if len(examples) < 10:  # every tenth is held out
        raise InputError(f"config.rank_set: 10 patches or more expected that NIQE can tell apart, got {len(examples)}")
    return examples


def split(examples: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those to learn from, and every tenth, which is held out."""
    return [e for i, e in enumerate(examples) if i % 10 != 9], list(examples[9::10])


def _patches(results: Sequence[np.ndarray], side: int, stride: int, block: int) -> Iterator[dict[str, Any]]:
    height, width = results[0].shape[:2]
    for top in range(0, height - side + 1, stride):
        for left in range(0, width - side + 1, stride):
            patches = np.stack([image[top : top + side, left : left + side] for image in results])
            if sharpness(patches[2]) < SHARPEST_BLUR:
                continue
            try:
                whole = [niqe(patch, 0, block) for patch in patches[1:]]
                scores = [niqe(patch, 4, block) for patch in patches]
            except ValueError:  # flat
                continue
            if abs(whole[0] - whole[1]) > CLEAR:
                yield {"images": patches, "niqe": np.array(scores, np.float32)}


class ChoosePair(grain.transforms.RandomMap):
    """Two of an example's three images at random, `first` and `second`, and the `label` (1, 1, 1).

    It is 1 where the first one's NIQE is not the lower one, else -1.
    """

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return pair(element, *_PAIRS[rng.integers(len(_PAIRS))])


def pair(element: dict[str, Any], first: int, second: int) -> dict[str, np.ndarray]:
    """Two images of an example, as `ChoosePair`."""
    label = 1 if element["niqe"][first] >= element["niqe"][second] else -1
    return {
        "first": element["images"][first],
        "second": element["images"][second],
        "label": np.full((1, 1, 1), label, np.float32),
    }


def held_out_pairs(examples: Sequence[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """All pairs of the examples."""
    return [pair(example, *chosen) for example in examples for chosen in _PAIRS]
