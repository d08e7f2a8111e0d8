"""Datasets: image folders, prepared once as records (tensorflow-datasets, without TensorFlow), and embedded photographs.

An example is a dict of `name` (str), `hr` (H, W, 3) uint8 and `refs`, a list of (., ., 3) uint8 images of any sizes.
Examples are sorted by name. A prepared dataset has a name like `cufed5`, or `cufed5/mine` where there are several of a kind.
"""

import collections
import io
import itertools
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rrsr_jax.data import records
from rrsr_jax.data.folders import Files, Listing, by_name, images, owner, without_copies
from rrsr_jax.data.images import check_image, resize_bicubic
from rrsr_jax.data.pictures import read_rgb8
from rrsr_jax.errors import InputError
from rrsr_jax.workdir.files import check_name

SMALLEST = 12  # 3x3 pixels at 1x, what matching needs
SPLIT = "all_images"
EXAMPLES_PER_FILE = 2_000

# Photographs that scikit-image's wheel carries (public domain or CC0).
EMBEDDED_TRAIN = ("astronaut", "rocket", "hubble_deep_field")
EMBEDDED_TEST = ("chelsea", "coffee")


class ImageFolders(tfds.core.GeneratorBasedBuilder):
    """The common part of all datasets. A subclass says which files belong together.

    Attributes:
      LAYOUT: the expected folder, in words.
      COUNT: number of examples of the published set; None for any.
      REFERENCES: references of each example; None for one or more.
      PUBLISHED_REFERENCES: how many the published set has; another number is noted. None for any.
    """

    VERSION = tfds.core.Version("1.0.0")
    LAYOUT = ""
    COUNT: int | None = None
    REFERENCES: int | None = None
    PUBLISHED_REFERENCES: int | None = None

    def __init__(self, data_dir: str, variant: str = "", examples: Iterable[dict[str, Any]] = ()):
        """A dataset in `data_dir`. Preparing it takes `examples`, as `encode` makes them."""
        self._examples = examples
        config = tfds.core.BuilderConfig(name=variant) if variant else None
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    @classmethod
    def list_files(cls, source: pathlib.Path) -> Listing:
        """The examples in a folder, by file name, and what there is besides."""
        raise NotImplementedError

    @classmethod
    def encode(cls, files: Files, smallest: int = SMALLEST, tile: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
        """Encodes an example for storage: one or more examples of encoded images, and the conversions that were made.

        Args:
          files: of one example.
          smallest: least height and width of every image.
          tile: side, in pixels, of the pieces that an image without references is cut into; 0 for no cutting. Records of large
            photographs are slow to decode.

        Raises:
          InputError: an image cannot be used; names it and says what to do.
        """
        notes = []
        try:
            files.name.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{os.fsencode(files.hr)!r}: a file name in UTF-8 expected; rename it") from error
        check_name(files.name)

        def encoded(path: pathlib.Path, is_input: bool) -> tuple[np.ndarray, list[io.BytesIO]]:
            image, changes = cls.fit(*read_rgb8(path, smallest), path, is_input)
            notes.extend(changes)
            if tile and max(image.shape) > tile:
                notes.append(f"cut into tiles of {tile}")
                return image, [records.png(piece) for piece in records.tiles(image, tile)]
            raw = path.read_bytes()
            return image, [io.BytesIO(raw) if not changes and records.is_storable(raw) else records.png(image)]

        image, pieces = encoded(files.hr, is_input=True)
        refs = []
        for path in files.refs:
            ref, stored = encoded(path, is_input=False)
            refs += stored
            if np.array_equal(ref, image):
                if cls.COUNT is None:
                    raise InputError(
                        f"{path}: another image than the input expected, got {files.hr} again; replace it or move it away"
                    )
                notes.append(f"a reference that is the input itself: {path}")
        if cls.PUBLISHED_REFERENCES not in (None, len(refs)):
            notes.append(f"{len(refs)} references instead of the published {cls.PUBLISHED_REFERENCES}: {files.name}")
        names = [files.name] if len(pieces) == 1 else [f"{files.name}-{i:03}" for i in range(len(pieces))]
        return [{"name": name, "hr": hr, "refs": refs} for name, hr in zip(names, pieces, strict=True)], notes

    @classmethod
    def fit(
        cls, image: np.ndarray, notes: list[str], path: pathlib.Path, is_input: bool
    ) -> tuple[np.ndarray, list[str]]:
        """Makes an image fit the dataset, or raises InputError. By default any image fits."""
        return image, notes

    def _info(self):
        image = records.StoredImage(shape=(None, None, 3))
        features = {"name": tfds.features.Text(), "hr": image, "refs": tfds.features.Sequence(image)}
        return records.LocalInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _download_and_prepare(self, dl_manager, download_config):
        """Writes record by record. The library's own method keeps everything in memory, and needs TensorFlow above 1 GB."""
        del dl_manager, download_config  # nothing is downloaded
        info = self._info()  # of the folder that is being written
        writer = tfds.core.SequentialWriter(info, EXAMPLES_PER_FILE, file_format="array_record")
        writer.initialize_splits([SPLIT])
        examples = iter(self._examples)
        while some := list(itertools.islice(examples, 64)):
            writer.add_examples({SPLIT: some})
        writer.close_all()
        self.info.set_splits(info.splits)

    def _split_generators(self, dl_manager):
        raise NotImplementedError("see _download_and_prepare")

    def _generate_examples(self):
        raise NotImplementedError("see _download_and_prepare")


class RefPairs(ImageFolders):
    """A user's own pairs: images with one or more references each, of any sizes."""

    LAYOUT = "input/NAME.png with ref/NAME.png, or with any number of ref/NAME_*.png or ref/NAME/*.png; NAME may have folders"

    @classmethod
    def list_files(cls, source):
        """Pairs by their names in `input` and in `ref`, see `folders.owner`."""
        listing = Listing()
        for path in sorted(source.iterdir()) if source.is_dir() else ():
            if path.name not in ("input", "ref"):
                listing.leave_out("beside input and ref", path)
        inputs = by_name(images(source / "input", listing), source / "input", listing)
        refs = collections.defaultdict(list)
        paths = images(source / "ref", listing)
        for path in paths:
            name = unicodedata.normalize("NFC", path.relative_to(source / "ref").with_suffix("").as_posix())
            if name_of_input := owner(name, inputs):
                refs[name_of_input].append(path)
            else:
                listing.problems.append(f"{path}: no input of that name; rename it or move it away")
        for name, path in sorted(inputs.items()):
            number = len(refs[name])
            if number == 0 or (cls.REFERENCES and number != cls.REFERENCES):
                listing.problems.append(
                    f"{path}: {cls.REFERENCES or 'one or more'} reference(s) expected in {source / 'ref'}, got {number}"
                )
            else:
                listing.files.append(Files(name.replace("/", "-"), path, tuple(refs[name])))
        return listing


class Cufed(RefPairs):
    """CUFED's training pairs (Zhang et al. 2019). A reference of another size is resized bicubically to that of the input."""

    LAYOUT = "input/*.png and ref/*.png with equal names, 11,871 pairs of 160x160 pixels"
    COUNT, REFERENCES = 11_871, 1
    PATCH = 160

    @classmethod
    def fit(cls, image, notes, path, is_input):
        """Inputs must be 160x160; references are resized to that."""
        if image.shape[:2] == (cls.PATCH, cls.PATCH):
            return image, notes
        if is_input:
            raise InputError(f"{path}: {cls.PATCH}x{cls.PATCH} pixels expected, got {image.shape[0]}x{image.shape[1]}")
        return resize_bicubic(image, cls.PATCH, cls.PATCH), [*notes, f"reference resized to {cls.PATCH}x{cls.PATCH}"]


class WrSr(RefPairs):
    """WR-SR (Jiang et al. 2021): 80 pairs."""

    LAYOUT = "input/NNN.png and ref/NNN_ref.png, 80 pairs"
    COUNT, REFERENCES = 80, 1


class Sun80(RefPairs):
    """Sun80 (Sun and Hays 2012): 80 images with 20 references each."""

    LAYOUT = "input/NAME.png and ref/NAME/*.png (or ref/NAME_*.png), 80 images with 20 references each, or fewer"
    COUNT, PUBLISHED_REFERENCES = 80, 20


class Cufed5(ImageFolders):
    """CUFED5 (Zhang et al. 2019): 126 groups of an input and five references of falling similarity."""

    LAYOUT = "NNN_0.png (input) and NNN_1.png to NNN_5.png (references, most similar first), 126 groups"
    COUNT, REFERENCES = 126, 5
    MEMBERS = tuple(range(6))  # the input, then its references

    @classmethod
    def list_files(cls, source):
        """Groups by the part of the name before the last underscore."""
        listing = Listing()
        groups = collections.defaultdict(dict)
        for stem, path in by_name(images(source, listing, deep=False), source, listing).items():
            group, _, member = stem.rpartition("_")
            if group and member in map(str, cls.MEMBERS):
                groups[group][int(member)] = path
            else:
                listing.problems.append(
                    f"{path}: a name like 000_0.png to 000_5.png expected; rename it or move it away"
                )
        for group, members in sorted(groups.items()):
            if missing := [str(i) for i in cls.MEMBERS if i not in members]:
                listing.problems.append(f"{source / group}_*: no image {', '.join(missing)}")
            else:
                listing.files.append(Files(group, members[0], tuple(members[i] for i in cls.MEMBERS[1:])))
        return listing


class Photos(ImageFolders):
    """Photographs without references: to train on pairs that are made from them, or to super-resolve each on its own."""

    LAYOUT = "photographs, also in folders of the folder"
    REFERENCES = 0

    @classmethod
    def list_files(cls, source):
        """One example per image, named by its path in the folder; low-resolution copies are left out."""
        listing = Listing()
        paths = without_copies(images(source, listing), source, listing)
        named = by_name(paths, source, listing, flat=True)
        listing.files += [Files(name, path) for name, path in sorted(named.items())]
        return listing


class Urban100(Photos):
    """Urban100 (Huang et al. 2015): 100 images of buildings, no references."""

    LAYOUT = "100 images"
    COUNT = 100


class Manga109(Photos):
    """Manga109 (Matsui et al. 2017): 109 covers, no references."""

    LAYOUT = "109 images"
    COUNT = 109


BUILDERS = {builder.name: builder for builder in (Cufed, Cufed5, Sun80, Urban100, Manga109, WrSr, RefPairs, Photos)}


def builder_class(name: str) -> tuple[type[ImageFolders], str]:
    """The dataset and the variant in a name like `cufed5` or `cufed5/mine`; InputError for any other name."""
    base, _, variant = name.partition("/")
    if base not in BUILDERS or ("/" in name and not re.fullmatch(r"[A-Za-z]\w*", variant)):
        raise InputError(
            f"dataset: one of {', '.join(BUILDERS)}, or one of them and /NAME of letters and digits, expected, got {name!r}"
        )
    return BUILDERS[base], variant


class Prepared(Sequence):
    """The examples of a prepared dataset.

    Attributes:
      name: of the dataset.
      folder: of its files.
      has_references: whether its examples have references.
      written: when it was prepared; tells one preparation from another.
      fingerprint: tells its images from others, see `records.fingerprint`.
      preparation: what `prepare` noted, see `prepare.prepare`; empty if an older version prepared it.
      sides: the name and the smaller side, in pixels, of each example; empty likewise.
    """

    def __init__(self, name: str, data_dir: str):
        """Opens the records.

        Raises:
          InputError: not prepared (says how to), or a record file is missing or cut short.
        """
        cls, variant = builder_class(name)
        self.name, self._data_dir, self.folder = name, data_dir, pathlib.Path(data_dir, name, str(cls.VERSION))
        try:
            # Not by `tfds.builder_from_directory`, which imports whatever module a file in the folder names.
            self._records = cls(data_dir, variant).as_data_source(SPLIT)
        except Exception as error:  # the library's own errors, of many kinds
            raise InputError(
                f"no prepared dataset {name} in {data_dir} (looked for {self.folder}); prepare it: python -m "
                f"rrsr_jax.data.prepare --dataset={name} --source=DIR --data_dir={data_dir}, DIR with {cls.LAYOUT}"
            ) from error
        self.has_references = cls.REFERENCES != 0
        self.written = (self.folder / "dataset_info.json").stat().st_mtime_ns
        self.preparation: dict[str, Any] = records.read_preparation(self.folder)
        self.fingerprint = records.fingerprint(self.folder, self.preparation)
        self.sides: list[tuple[str, int]] = [(name, side) for name, side in self.preparation.get("sides", ())]
        try:
            self[0]
        except InputError:  # one record, or the whole file?
            self[len(self) - 1]

    def __reduce__(self):
        """A worker process opens the records itself."""
        return Prepared, (self.name, self._data_dir)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            record = self._records[index]
        except Exception as error:  # record readers and image decoders raise what they like
            raise InputError(
                f"{self.name}: record {index} of {len(self)} in {self.folder} is damaged ({error}); move that folder away "
                "and prepare the dataset again, or train without such records: --config.data.skip_damaged=True"
            ) from error
        name = record["name"].decode(errors="backslashreplace")  # check_name refuses a backslash
        return {"name": check_name(name), "hr": record["hr"], "refs": list(record["refs"])}


def embedded_photographs(names: tuple[str, ...], smallest: int) -> list[np.ndarray]:
    """Photographs from scikit-image's wheel, (H, W, 3) uint8, with sides of at least `smallest` pixels; nothing is downloaded."""
    import skimage.data

    return [check_image(getattr(skimage.data, name)(), name, smallest) for name in names]
