"""Image files in and out: every format, orientation, colour space, depth and kind of array."""

import dataclasses
import errno
import io
import os
import stat
import struct
import subprocess
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from rrsr_jax.data import pictures
from rrsr_jax.errors import InputError
from tests.data.files import PROFILES, deep, load, save
from tests.helpers import largest_file, noise


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("a.png", "PNG"),
        ("a.tif", "TIFF"),
        ("a.bmp", "BMP"),
        ("a.jp2", "JPEG2000"),
        ("a.ppm", "PPM"),
        ("a.txt", "PNG"),
        ("png.jpg", "PNG"),
    ],
)
def test_lossless_formats_are_read_as_they_are_whatever_their_name(tmp_path, name, file_format):
    image = noise()
    Image.fromarray(image).save(tmp_path / name, file_format)
    picture = pictures.read_picture(tmp_path / name)
    assert (picture.format, picture.depth, picture.grey, picture.alpha, picture.notes) == (
        file_format,
        8,
        False,
        None,
        (),
    )
    np.testing.assert_array_equal(picture.pixels(8), image)
    assert picture.rgb.dtype == np.float32


@pytest.mark.parametrize(("ending", "file_format"), [(".jpg", "JPEG"), (".webp", "WEBP"), (".avif", "AVIF")])
def test_lossy_formats(tmp_path, ending, file_format):
    image = cv2.resize(noise(4, 5), (40, 32), interpolation=cv2.INTER_CUBIC)
    path = tmp_path / f"a{ending}"
    assert pictures.write_picture(path, pictures.to_picture(image)) == []
    picture = pictures.read_picture(path)
    assert picture.format == file_format
    assert np.abs(picture.pixels(8).astype(int) - image).mean() < 3


def test_gif_and_other_animations_give_their_first_frame(tmp_path):
    frames = [Image.fromarray(noise(seed=i)).quantize(16) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = pictures.read_picture(tmp_path / "a.gif")
    np.testing.assert_array_equal(picture.pixels(8), np.asarray(frames[0].convert("RGB")))
    assert picture.notes == ("the first of 3 images in the file", "palette to RGB")


def test_what_is_not_read_is_named(tmp_path):
    cases = {
        "eps.png": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "JPEG, PNG, TIFF, .* or HEIC expected, got another",
        ),
        "empty.png": (b"", "expected, got an empty file; replace it or move it away"),
        "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC needs pillow-heif|cannot be read as an image"),
    }
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, "PNG")
    cases["short.png"] = (file.getvalue()[:-40], "cannot be read as an image")
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, "TGA")
    cases["tga.png"] = (file.getvalue(), "got another format, or a damaged file")
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(file, "TIFF")
    cases["float.tif"] = (
        file.getvalue(),
        "8 or 16 bits a channel expected, got floating-point or 32-bit pixels; convert it",
    )
    file = io.BytesIO()
    Image.new("LAB", (8, 8)).save(file, "TIFF")
    cases["lab.tif"] = (file.getvalue(), "grey, RGB or CMYK expected, got mode LAB; convert it to RGB")
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: .*{message}") as caught:
            pictures.read_picture(tmp_path / name)
        assert "BytesIO" not in str(caught.value)
    with pytest.raises(InputError, match=r"none\.png: cannot be read \(No such file or directory\)"):
        pictures.read_picture(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"an image file expected, got a folder"):
        pictures.read_picture(tmp_path)


def test_images_that_claim_to_be_huge(tmp_path, monkeypatch):
    save(tmp_path / "a.png", noise(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    assert pictures.read_picture(tmp_path / "a.png").rgb.shape == (40, 40, 3)  # Pillow would warn
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(InputError, match=r"a\.png: at most 1,400 pixels expected, got more; reduce it"):
        pictures.read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".avif"])
def test_all_orientations(tmp_path, ending):
    image = cv2.resize(noise(4, 5), (40, 32), interpolation=cv2.INTER_CUBIC)
    options = {".tif": {"compression": "tiff_lzw"}, ".png": {}}.get(ending, {"quality": 100})
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = orientation, "camera"
        path = tmp_path / f"{orientation}{ending}"
        Image.fromarray(image).save(path, exif=exif, **options)
        expected = np.asarray(ImageOps.exif_transpose(load(path)).convert("RGB"))
        picture = pictures.read_picture(path)
        np.testing.assert_array_equal(picture.pixels(8), expected)
        assert bool(picture.notes) == (orientation > 1)
        kept = Image.Exif()
        kept.load(picture.exif)
        assert dict(kept) == {0x010F: "camera"}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_of_16_bits(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, other = deep(), noise()
    path = tmp_path / "a.png"
    picture = dataclasses.replace(pictures.to_picture(image), exif=exif.tobytes())
    pictures.write_picture(path, picture)
    got = pictures.read_picture(path).pixels(16)
    turned = Image.fromarray(other)
    turned.getexif()[0x0112] = orientation
    where = np.asarray(ImageOps.exif_transpose(turned))
    places = {tuple(other[y, x]): image[y, x] for y in range(24) for x in range(20)}
    np.testing.assert_array_equal(got, [[places[tuple(value)] for value in row] for row in where])


@pytest.mark.parametrize(
    ("ending", "channels"),
    [(".png", 1), (".png", 3), (".png", 4), (".tif", 1), (".tif", 3), (".tif", 4), (".jp2", 1), (".jp2", 3)],
)
def test_16_bits_in_and_out(tmp_path, ending, channels):
    image = deep(64, 80, channels)
    path = save(tmp_path / f"in{ending}", image)
    picture = pictures.read_picture(path)
    assert (picture.depth, picture.grey, picture.alpha is not None) == (16, channels == 1, channels == 4)
    np.testing.assert_array_equal(np.squeeze(picture.pixels(16)), image)
    for out in (".png", ".tif"):
        assert pictures.write_picture(tmp_path / f"out{out}", picture, force=True) == []
        again = cv2.imread(str(tmp_path / f"out{out}"), cv2.IMREAD_UNCHANGED)
        again = again if channels == 1 else again[..., [2, 1, 0, 3][:channels]]
        np.testing.assert_array_equal(again, image)
    assert pictures.write_picture(tmp_path / "out.jpg", dataclasses.replace(picture, alpha=None)) == [
        "16 bits a channel rounded to 8, which JPEG holds"
    ]


def test_other_deep_files(tmp_path):
    image = deep() >> 4
    (tmp_path / "a.ppm").write_bytes(b"P6\n# made by hand\n20 24\n4095\n" + image.astype(">u2").tobytes())
    picture = pictures.read_picture(tmp_path / "a.ppm")
    np.testing.assert_allclose(picture.rgb, image / 4095, atol=1 / 65535)
    grey = pictures.to_picture(deep(channels=2))
    assert grey.grey
    pictures.write_picture(tmp_path / "grey.png", grey)
    again = pictures.read_picture(tmp_path / "grey.png")
    assert (again.grey, again.depth) == (True, 16)
    np.testing.assert_array_equal(again.pixels(16), deep(channels=2))
    assert pictures.write_picture(tmp_path / "grey.tif", grey) == [
        "grey written as RGB: few programs read TIFF with 16 bits of grey and transparency"
    ]
    np.testing.assert_array_equal(
        pictures.read_picture(tmp_path / "grey.tif").pixels(16), deep(channels=2)[..., [0, 0, 0, 1]]
    )


def test_more_than_8_bits_that_pillow_does_not_give(tmp_path):
    path = save(tmp_path / "a.avif", noise())
    assert pictures.read_picture(path).notes == ()
    raw = bytearray(path.read_bytes())
    depths, configuration = raw.index(b"pixi\0\0\0\0\3") + 9, raw.index(b"av1C") + 6
    assert raw[depths : depths + 3] == b"\x08\x08\x08"
    raw[depths : depths + 3] = b"\x0a\x0a\x0a"
    raw[configuration] |= 0x40  # high_bitdepth
    path.write_bytes(raw)
    assert pictures.read_picture(path).notes == ("10 bits a channel read as 8",)


def test_transparency_is_kept(tmp_path):
    image = np.concatenate([noise(), noise(seed=1)[..., :1]], -1)
    for path in (save(tmp_path / "a.png", image), save(tmp_path / "grey.png", image[..., 2:])):
        picture = pictures.read_picture(path)
        np.testing.assert_array_equal(picture.alpha, np.float32(image[..., 3]) / np.float32(255))
        for ending in (".png", ".tif"):
            pictures.write_picture(tmp_path / f"out{ending}", picture, force=True)
            np.testing.assert_array_equal(np.asarray(load(tmp_path / f"out{ending}")), np.asarray(load(path)))
        for ending in (".webp", ".avif"):
            pictures.write_picture(tmp_path / f"out{ending}", picture, force=True)
            assert load(tmp_path / f"out{ending}").mode == "RGBA"
        with pytest.raises(InputError, match=r"out\.jpg: JPEG holds no transparency; name a \.png, \.tif or \.webp"):
            pictures.write_picture(tmp_path / "out.jpg", picture)
    opaque = dataclasses.replace(picture, alpha=np.ones_like(picture.alpha))
    pictures.write_picture(tmp_path / "out.jpg", opaque)


def test_transparent_colours(tmp_path):
    image = Image.fromarray(noise()).quantize(8)
    image.save(tmp_path / "palette.png", transparency=3)
    picture = pictures.read_picture(tmp_path / "palette.png")
    np.testing.assert_array_equal(picture.alpha, np.asarray(image) != 3)
    assert picture.notes == ("palette to RGB",)
    save(tmp_path / "key.png", noise(), transparency=tuple(map(int, noise()[2, 3])))
    alpha = pictures.read_picture(tmp_path / "key.png").alpha
    assert alpha[2, 3] == 0
    assert alpha.mean() > 0.99
    image = deep()
    pictures.write_picture(tmp_path / "deep.png", pictures.to_picture(image))
    raw = (tmp_path / "deep.png").read_bytes()
    data = b"tRNS" + image[2, 3].astype(">u2").tobytes()
    chunk = struct.pack(">I", 6) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "deep.png").write_bytes(raw[:33] + chunk + raw[33:])
    alpha = pictures.read_picture(tmp_path / "deep.png").alpha
    assert alpha[2, 3] == 0
    assert alpha.mean() > 0.99


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("source", [".jpg", ".tif"])
def test_metadata_is_kept(tmp_path, ending, source):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = 6, "camera", "me"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 20, 0xA003: 24, 0x829A: 0.01, 0xA005: {1: "R98"}}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    Image.fromarray(noise()).save(tmp_path / f"in{source}", exif=exif.tobytes(), dpi=(300, 150))
    picture = pictures.read_picture(tmp_path / f"in{source}")
    larger = dataclasses.replace(picture, rgb=picture.rgb.repeat(4, 0).repeat(4, 1))
    pictures.write_picture(tmp_path / f"out{ending}", larger)
    with Image.open(tmp_path / f"out{ending}") as file:
        kept = file.getexif()
        assert (kept[0x010F], kept[0x8298]) == ("camera", "me")
        assert kept.get(0x0112, 1) == 1
        directory = kept.get_ifd(0x8769)
        assert directory[0x9003] == "2020:01:02 03:04:05"
        assert float(directory[0x829A]) == pytest.approx(0.01)
        assert (directory[0xA002], directory[0xA003]) == (96, 80)
        assert kept.get_ifd(0x8825)[1] == "N"
        if source == ".jpg":  # Pillow loses it in TIFF
            assert kept.get_ifd(0xA005)[1] == "R98"
        if ending not in (".webp", ".avif"):
            assert file.info["dpi"] == pytest.approx((300, 150), abs=0.1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 2), (6, 5, 3), (6, 5, 4)])
def test_arrays_come_back_as_they_are(dtype, shape):
    array = np.random.default_rng(0).random(shape)
    if np.dtype(dtype).kind == "u":
        array = array * np.iinfo(dtype).max
    array = array.astype(dtype)
    picture = pictures.to_picture(array)
    assert picture.grey == (len(shape) == 2 or shape[2] < 3)
    back = picture.like(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_allclose(back, array, rtol=1e-6)
    beyond = dataclasses.replace(picture, rgb=picture.rgb * 4 - 2).like(array)
    assert beyond.dtype == array.dtype
    assert beyond[..., 0].max() == (1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5, np.uint8), r"shape \(H, W\), or .* got \(5,\)"),
        (np.zeros((2, 3, 5), np.uint8), r"with 1 to 4 channels, expected, got \(2, 3, 5\)"),
        (np.zeros((0, 3, 3), np.uint8), r"got \(0, 3, 3\)"),
        (np.zeros((4, 4, 3), np.int64), r"uint8, uint16, or floating point in \[0, 1\] expected, got int64"),
        (np.full((4, 4, 3), 200.0), r"in \[0, 1\] expected, got 200 to 200; divide by its white, often 255"),
        (np.full((4, 4, 3), np.nan), "got nan to nan"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(InputError, match=message):
        pictures.to_picture(array)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pillow_images_come_back_as_they_are(mode):
    array = deep(channels=1) if mode == "I;16" else np.asarray(Image.fromarray(noise()).convert(mode))
    image = Image.fromarray(array)
    if mode == "RGB":
        image.info.update(icc_profile=PROFILES["p3"], dpi=(72, 72))
        image.getexif()[0x0112] = 6
    assert image.mode == mode
    before = image.getexif().tobytes()
    back = pictures.to_picture(image).like(image)
    assert back.mode == mode
    if mode == "RGB":
        assert back.info["icc_profile"] == PROFILES["p3"]
        assert back.getexif().get(0x0112, 1) == 1
        array = np.rot90(array, -1)
    np.testing.assert_array_equal(np.asarray(back), array)
    assert image.getexif().tobytes() == before  # untouched


def test_files_are_not_replaced_unless_told(tmp_path):
    picture, path = pictures.to_picture(noise()), tmp_path / "a.png"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"a\.png: exists; name another file, or give --force"):
        pictures.write_picture(path, picture)
    assert path.read_text() == "precious"
    pictures.write_picture(path, picture, force=True)
    np.testing.assert_array_equal(np.asarray(load(path)), noise())
    assert os.listdir(tmp_path) == ["a.png"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.gif", r"a name that ends in \.png, .* expected, got '\.gif'"),
        ("a", "expected, got 'no ending'"),
        ("nowhere/a.png", "there is no folder .*nowhere; make it first"),
        ("file/a.png", "there is no folder"),
        ("folder.png", r"folder\.png: exists; name another file$"),
        ("a.webp", r"WEBP holds at most 16,383 pixels a side; name a \.png"),
    ],
)
def test_names_that_cannot_be_written(tmp_path, name, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    picture = pictures.to_picture(np.zeros((1, 5_000), np.uint8))
    with pytest.raises(InputError, match=message):
        pictures.check_output(tmp_path / name, picture, scale=4, force=True)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path, monkeypatch):
    picture, path = pictures.to_picture(noise(100, 100)), tmp_path / "a.png"
    with (
        largest_file(1_000),
        pytest.raises(InputError, match=r"a\.png: cannot be written \(File too large\); free space"),
    ):
        pictures.write_picture(path, picture)
    assert os.listdir(tmp_path) == []

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pictures.write_picture(path, picture)
    assert os.listdir(tmp_path) == []

    def full(_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\); name another folder"):
        pictures.write_picture(path, picture)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"a\.png: the folder .* is not writable; name another one"):
        pictures.write_picture(path, picture)


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    image = cv2.resize(noise(4, 5), (64, 48), interpolation=cv2.INTER_CUBIC)
    heif.from_pillow(Image.fromarray(image)).save(tmp_path / "a.heic", quality=95)
    picture = pictures.read_picture(tmp_path / "a.heic")
    assert picture.format == "HEIF"
    assert np.abs(picture.pixels(8).astype(int) - image).mean() < 6  # colour at half the resolution


def test_eight_bits_for_datasets(tmp_path):
    path = save(tmp_path / "p3.png", noise(), icc_profile=PROFILES["p3"])
    image, notes = pictures.read_rgb8(path)
    assert notes == ["converted from its colour profile to sRGB"]
    np.testing.assert_array_equal(image, pictures.read_picture(path).pixels(8))
    image, notes = pictures.read_rgb8(save(tmp_path / "srgb.png", noise(), icc_profile=PROFILES["srgb"]))
    assert notes == []
    np.testing.assert_array_equal(image, noise())
    image, notes = pictures.read_rgb8(save(tmp_path / "deep.png", deep()))
    assert notes == ["16 bits a channel rounded to 8"]
    np.testing.assert_array_equal(image, np.round(deep() / 257))


def test_what_datasets_convert_and_refuse(tmp_path):
    image, notes = pictures.read_rgb8(save(tmp_path / "grey.png", noise()[..., 0]))
    np.testing.assert_array_equal(image, np.repeat(noise()[..., :1], 3, -1))
    assert notes == ["grey to RGB"]
    opaque = np.concatenate([noise(), np.full((24, 20, 1), 255, np.uint8)], -1)
    image, notes = pictures.read_rgb8(save(tmp_path / "opaque.png", opaque))
    np.testing.assert_array_equal(image, noise())
    assert notes == ["opaque alpha channel dropped"]
    opaque[3, 4, 3] = 254
    with pytest.raises(InputError, match=r"alpha\.png: 3 channels expected, got transparency; convert it to RGB"):
        pictures.read_rgb8(save(tmp_path / "alpha.png", opaque))
    with pytest.raises(InputError, match=r"grey\.png: at least 48x48 pixels expected, got 24x20"):
        pictures.read_rgb8(tmp_path / "grey.png", smallest=48)


@pytest.mark.timeout(60)
def test_pipes_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "endless.png"):
        with pytest.raises(InputError, match=f"{name}: an image file expected, got a pipe or a device"):
            pictures.read_picture(tmp_path / name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("of a codec"), r"a\.png: cannot be read as an image \(of a codec\)"),
        (IndexError("of a parser"), r"a\.png: cannot be read as an image \(of a parser\)"),
        (MemoryError(), r"a\.png: not enough memory for an image of this size; reduce it"),
    ],
)
def test_whatever_a_decoder_raises_is_bad_input(tmp_path, monkeypatch, error, message):
    def fails(_):
        raise error

    Image.fromarray(noise()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", fails)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fails)
    with pytest.raises(InputError, match=message):
        pictures.read_picture(tmp_path / "a.png")


def test_unfinished_files_of_killed_processes_go(tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    killed, other = tmp_path / f".{process.pid}.a.png.part", tmp_path / f".{process.pid}.b.png.part"
    living = tmp_path / f".{os.getppid()}.a.png.part"
    for path in (killed, other, living):
        path.write_bytes(b"half")
    pictures.write_picture(tmp_path / "a.png", pictures.to_picture(noise()))
    assert sorted(tmp_path.iterdir()) == sorted([living, other, tmp_path / "a.png"])
