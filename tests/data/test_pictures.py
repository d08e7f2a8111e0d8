"""Image files in and out: every format, orientation, colour space, depth and kind of array."""

import dataclasses
import errno
import io
import os
import stat
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from rrsr_jax.data import colour, pictures
from rrsr_jax.errors import InputError
from tests.helpers import largest_file, noise

P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50, D65 = np.array([0.9642, 1, 0.8249]), np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])

# Tone curves of profiles, as tags.
SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + struct.pack(
    ">5i", *(round(2**16 * v) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
GAMMA_CURVE = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(256 * 2.19921875)) + b"\0\0"
TABLE_CURVE = (
    b"curv\0\0\0\0" + struct.pack(">I", 1024) + (np.linspace(0, 1, 1024) ** 1.8 * 65535).astype(">u2").tobytes()
)


def profile(primaries, curve):
    """An ICC profile of a matrix and curves (ICC.1:2010): its primaries as (x, y), white D65; or a grey one without primaries."""
    tags = {b"wtpt": xyz(D50)}
    if primaries:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
        columns = columns * np.linalg.solve(columns, D65)
        adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ D65)) @ BRADFORD
        for i, channel in enumerate((b"r", b"g", b"b")):
            tags |= {channel + b"XYZ": xyz((adapt @ columns)[:, i]), channel + b"TRC": curve}
    else:
        tags[b"kTRC"] = curve
    return assembled(tags, b"RGB " if primaries else b"GRAY")


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(2**16 * v) for v in values))


def assembled(tags, space, connection=b"XYZ "):
    text = b"desc\0\0\0\0\0\0\0\5test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", **tags}
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(data), len(content))
        data += content
    size = struct.pack(">I", 128 + len(table) + len(data))
    header = size + b"none\2\x40\0\0mntr" + space + connection + bytes(12) + b"acsp" + bytes(28) + xyz(D50)[8:]
    return header + bytes(128 - len(header)) + table + data


PROFILES = {
    "p3": profile(P3, SRGB_CURVE),
    "adobe": profile(ADOBE, GAMMA_CURVE),
    "table": profile(P3, TABLE_CURVE),
    "srgb": profile(SRGB, SRGB_CURVE),
}


def deep(height=24, width=20, channels=3, seed=0):
    shape = (height, width, channels)[: 2 if channels == 1 else 3]
    return np.random.default_rng(seed).integers(0, 2**16, shape, dtype=np.uint16)


def save(path, image, **options):
    """An 8-bit array through Pillow, a 16-bit one through OpenCV."""
    if image.dtype == np.uint16:
        order = [2, 1, 0, 3][: image.shape[-1]] if image.ndim == 3 else None
        lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if path.suffix == ".jp2" else []
        assert cv2.imwrite(str(path), image[..., order] if order else image, lossless)
    else:
        Image.fromarray(image).save(path, **options)
    return path


def load(path):
    """What another program finds in a file."""
    image = Image.open(path)
    image.load()
    return image


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
        "empty.png": (b"", "expected, got an empty file; replace or remove it"),
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
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
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
