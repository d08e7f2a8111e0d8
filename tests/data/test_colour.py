"""Colour profiles of image files: matrices and curves, tables, CMYK, and profiles that cannot be honoured."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from rrsr_jax.data import colour, pictures
from tests.data.files import D50, GAMMA_CURVE, PROFILES, SRGB, assembled, deep, load, profile, save, xyz
from tests.helpers import noise


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_what_littlecms_makes_of_them(tmp_path, name):
    image = noise(40, 40)
    path = save(tmp_path / "a.png", image, icc_profile=PROFILES[name])
    picture = pictures.read_picture(path)
    source = ImageCms.ImageCmsProfile(io.BytesIO(PROFILES[name]))
    expected = ImageCms.profileToProfile(
        Image.fromarray(image), source, ImageCms.createProfile("sRGB"), renderingIntent=1
    )
    difference = np.clip(picture.rgb, 0, 1) * 255 - np.asarray(expected)
    assert np.abs(difference).max() < 1.1  # LittleCMS computes with 8 bits here
    assert np.abs(difference).mean() < 0.5
    if name != "srgb":
        assert np.abs(difference.mean()) < 0.05
        assert (picture.rgb < -0.02).any() or name == "adobe"
        assert (picture.rgb > 1.02).any()


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_come_back_exactly_with_their_profile(tmp_path, name, ending, bits):
    image = noise(40, 40) if bits == 8 else deep(40, 40)
    original = pictures.to_picture(image)
    made = pictures._picture(_decoded(image, PROFILES[name]))
    assert (np.abs(made.rgb - original.rgb).max() > 0.05) == (name != "srgb")
    pictures.write_picture(tmp_path / f"a{ending}", made)
    again = pictures.read_picture(tmp_path / f"a{ending}")
    assert again.icc == PROFILES[name]
    # Near black a gamma curve turns rounding errors of single precision, or of its table, into some levels of 16 bits.
    np.testing.assert_allclose(again.pixels(bits, again.icc), image, atol=0 if bits == 8 else 128)
    assert np.abs(again.pixels(bits, again.icc).astype(int) - image).mean() < 0.2
    assert load(tmp_path / f"a{ending}").info["icc_profile"] == PROFILES[name]


def _decoded(image, icc):
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG", icc_profile=icc)
    return pictures.decode(file.getvalue())._replace(values=image)


def test_profiles_of_lossy_formats(tmp_path):
    image = cv2.resize(noise(4, 5), (40, 32), interpolation=cv2.INTER_CUBIC)
    made = pictures._picture(_decoded(image, PROFILES["p3"]))
    for ending in (".jpg", ".webp", ".avif"):
        pictures.write_picture(tmp_path / f"a{ending}", made)
        file = load(tmp_path / f"a{ending}")
        assert file.info["icc_profile"] == PROFILES["p3"]
        assert np.abs(np.asarray(file).astype(int) - image).mean() < 3
    notes = pictures.write_picture(tmp_path / "a.bmp", made)
    assert notes == ["converted to sRGB: BMP holds no colour profile of this kind"]
    np.testing.assert_array_equal(np.asarray(load(tmp_path / "a.bmp")), made.pixels(8))


def test_a_profile_in_jpeg_2000(tmp_path):
    image, icc = noise(64, 64), PROFILES["p3"]
    save(tmp_path / "plain.jp2", image)
    raw = (tmp_path / "plain.jp2").read_bytes()
    start = raw.index(b"colr") - 4
    old = int.from_bytes(raw[start : start + 4])
    new = struct.pack(">I", 11 + len(icc)) + b"colr\2\0\0" + icc
    header = raw.index(b"jp2h") - 4
    size = int.from_bytes(raw[header : header + 4]) + len(new) - old
    raw = raw[:header] + struct.pack(">I", size) + raw[header + 4 : start] + new + raw[start + old :]
    (tmp_path / "a.jp2").write_bytes(raw)
    picture = pictures.read_picture(tmp_path / "a.jp2")
    assert picture.icc == icc
    np.testing.assert_array_equal(picture.pixels(8, icc), image)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (0, (2.0,)),
        (1, (2.0, 0.9, 0.1)),
        (2, (2.0, 0.8, 0.1, 0.05)),
        (3, (2.4, 0.95, 0.05, 0.07, 0.04)),
        (4, (2.4, 0.94, 0.05, 0.1, 0.04, 0.005, 0.002)),
    ],
)
def test_parametric_curves(kind, parameters):
    g, a, b, c, d, e, f = (*parameters, *(1, 0, 0, 0, 0, 0)[len(parameters) - 1 :])
    x = 0.02, 0.5, 0.9
    light = [
        lambda v: v**g,
        lambda v: (a * v + b) ** g if v >= -b / a else 0,
        lambda v: (a * v + b) ** g + c if v >= -b / a else c,
        lambda v: (a * v + b) ** g if v >= d else c * v,
        lambda v: (a * v + b) ** g + e if v >= d else c * v + f,
    ][kind]
    tag = (
        b"para\0\0\0\0"
        + struct.pack(">HH", kind, 0)
        + struct.pack(f">{len(parameters)}i", *(round(65536 * p) for p in parameters))
    )
    curve = colour.matrix_profile(profile(SRGB, tag)).curves[0]
    np.testing.assert_allclose([curve[round(65535 * v)] for v in x], [light(v) for v in x], atol=1e-4)


def test_grey_stays_grey_with_its_profile(tmp_path):
    image, icc = noise()[..., 0], profile(None, GAMMA_CURVE)
    save(tmp_path / "a.png", image, icc_profile=icc)
    picture = pictures.read_picture(tmp_path / "a.png")
    assert picture.grey
    assert np.ptp(picture.rgb, axis=-1).max() == 0
    assert np.abs(picture.rgb[..., 0] - image / 255).max() > 0.01
    for ending in (".png", ".jpg", ".tif"):
        pictures.write_picture(tmp_path / f"out{ending}", picture)
        file = load(tmp_path / f"out{ending}")
        assert (file.mode, file.info["icc_profile"]) == ("L", icc)
    np.testing.assert_array_equal(np.asarray(load(tmp_path / "out.png")), image)
    assert pictures.write_picture(tmp_path / "out.webp", picture)  # has no grey
    assert "icc_profile" not in load(tmp_path / "out.webp").info


def test_profiles_that_cannot_be_honoured(tmp_path):
    for icc, note in {
        b"no profile": "does not fit",
        profile(None, GAMMA_CURVE): "does not fit",
        PROFILES["p3"][:300]: "a damaged colour profile ignored",
        profile(SRGB, b"curv\0\0\0\0\0\0\0\2\xff\xff\0\0"): "damaged|a table",
    }.items():
        save(tmp_path / "a.png", noise(), icc_profile=icc)
        picture = pictures.read_picture(tmp_path / "a.png")
        assert picture.icc is None
        assert len(picture.notes) == 1
        assert any(part in picture.notes[0] for part in note.split("|"))


def lab_table(space, channels):
    """A profile that is a table, of 2 points a channel: every colour is a grey."""
    grid = np.zeros((*[2] * channels, 3))
    grid[..., 0] = np.indices([2] * channels).mean(0)  # L
    if space == b"CMYK":
        grid[..., 0] = 1 - grid[..., 0]
    values = np.round(grid * 65280).astype(np.uint16)
    values[..., 1:] = 32768
    identity = b"".join(np.array([0, 65535], ">u2").tobytes() for _ in range(max(channels, 3)))
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    tag = b"mft2\0\0\0\0" + bytes([channels, 3, 2, 0]) + matrix + struct.pack(">HH", 2, 2)
    tag += identity[: 4 * channels] + values.astype(">u2").tobytes() + identity[:12]
    return assembled({b"wtpt": xyz(D50), b"A2B0": tag}, space, b"Lab ")


def test_tables_are_applied_and_said(tmp_path):
    save(tmp_path / "a.png", noise(), icc_profile=lab_table(b"RGB ", 3))
    picture = pictures.read_picture(tmp_path / "a.png")
    assert picture.notes == ("converted to 8-bit sRGB: its colour profile is a table",)
    assert picture.icc is None
    assert np.ptp(picture.rgb, axis=-1).max() < 0.02


@pytest.mark.parametrize("icc", [None, lab_table(b"CMYK", 4), b"damaged"])
def test_cmyk_is_converted_and_said(tmp_path, icc):
    image = Image.fromarray(noise()).convert("CMYK")
    image.save(tmp_path / "a.tif", **({"icc_profile": icc} if icc else {}))
    picture = pictures.read_picture(tmp_path / "a.tif")
    assert picture.notes == ("CMYK to sRGB",)
    assert picture.icc is None
    expected = np.asarray(image.convert("RGB"))
    same = np.abs(picture.pixels(8).astype(int) - expected).max() == 0
    assert same == (icc is None or len(icc) < 100)
