"""Where training and evaluation images come from. A source has a length and gives one element per index."""

import pathlib

import numpy as np

from rrsr_jax.data.images import check_image, read_image, resize_bicubic
from rrsr_jax.errors import InputError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")
CUFED_PAIRS = 11_871
# Photographs that scikit-image's wheel carries (public domain or CC0).
EMBEDDED_TRAIN = ("astronaut", "rocket", "hubble_deep_field")
EMBEDDED_TEST = ("chelsea", "coffee")


def embedded_photographs(names: tuple[str, ...], smallest: int) -> list[np.ndarray]:
    """Photographs of scikit-image by name, (H, W, 3) uint8, at least `smallest` pixels a side; nothing is downloaded."""
    import skimage.data

    return [check_image(getattr(skimage.data, name)(), name, smallest) for name in names]


class PairFolders:
    """Pairs in two folders, `input/` and `ref/`, with equal file names: the layout of CUFED's training set.

    Elements are dicts of `hr` and `ref`, both (patch, patch, 3) uint8. A reference of another size is resized bicubically.
    """

    def __init__(self, directory: str, patch: int, expected: int | None = None):
        """Lists and pairs the files; reads no image.

        Args:
          directory: holds `input/` and `ref/`.
          patch: side of every input image.
          expected: number of pairs that must be there; any if None.

        Raises:
          InputError: a folder is missing, files are unpaired, or there is another number of pairs.
        """
        self._patch = patch
        root = pathlib.Path(directory or "DIR")
        layout = (
            f"expected: {root}/input/*.png and {root}/ref/*.png, equal names, {patch}x{patch} pixels"
            + (f", {expected:,} pairs" if expected else "")
            + ". Nothing is downloaded; point config.data.dir to your copy"
        )
        if not directory:
            raise InputError(f"config.data.dir is empty; {layout}")
        for folder in ("input", "ref"):
            if not (root / folder).is_dir():
                raise InputError(f"no folder {root / folder}; {layout}")
        inputs, refs = (
            {p.name for p in (root / folder).iterdir() if p.suffix.lower() in IMAGE_ENDINGS}
            for folder in ("input", "ref")
        )
        if unpaired := sorted(inputs ^ refs):
            raise InputError(f"{len(unpaired)} files of {root} without a partner: {', '.join(unpaired[:10])}; {layout}")
        if not inputs or (expected and len(inputs) != expected):
            raise InputError(f"{len(inputs)} pairs in {root}; {layout}")
        self._root, self._names = root, sorted(inputs)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        paths = [self._root / folder / self._names[index] for folder in ("input", "ref")]
        hr, ref = (read_image(path) for path in paths)
        if hr.shape[:2] != (self._patch, self._patch):
            raise InputError(
                f"{paths[0]}: {self._patch}x{self._patch} pixels expected, got {hr.shape[0]}x{hr.shape[1]}"
            )
        if ref.shape != hr.shape:
            ref = resize_bicubic(ref, *hr.shape[:2])
        return {"hr": hr, "ref": ref}
