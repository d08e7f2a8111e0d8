"""The engine gives what the network gives run whole, says how much a reference was used, and refuses what it cannot compute."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image

import rrsr_jax
from rrsr_jax.data.images import downscale
from rrsr_jax.errors import InputError
from rrsr_jax.inference import search, stages, tiles, upscaler
from rrsr_jax.inference.registration import register
from rrsr_jax.inference.upscaler import Upscaler
from rrsr_jax.models.c2_matching import C2Matching
from rrsr_jax.models.correspondence import untrained
from rrsr_jax.models.srcnn import SRCNN
from rrsr_jax.weights.released import Released
from tests.helpers import random_params, tiny_rrsr

SIZE = (45, 38)
REFERENCES = ((61, 50), (40, 75))


def picture(height, width, seed=0):
    """Smooth noise in [0, 1] whose matches are clear."""
    noise = np.random.default_rng(seed).random((height // 3 + 2, width // 3 + 2, 3), np.float32)
    return np.asarray(jax.image.resize(noise, (height, width, 3), "cubic")).clip(0, 1)


@functools.cache
def released(kind=tiny_rrsr, **fields):
    model = kind(**fields)
    return Released(model, random_params(model), "random")


def whole(weights, rgb, references, **changes):
    """The network's own result; without a reference, that is the image."""
    crop = lambda r: jnp.asarray(r[None, : len(r) // 4 * 4, : r.shape[1] // 4 * 4])  # noqa: E731
    refs = [crop(r) for r in references or [rgb]]
    model = weights.model.clone(**changes)
    return np.asarray(jax.jit(model.apply)({"params": weights.params}, jnp.asarray(rgb[None]), refs)[0])


@pytest.fixture
def small_tiles(monkeypatch):
    """Several tiles in each stage, and features as exact as the network's."""
    monkeypatch.setattr(tiles, "SIDES", (16, 24, 32))
    monkeypatch.setattr(stages, "_LARGEST_INPUT", 24)
    monkeypatch.setattr(stages, "STORE", np.float32)
    monkeypatch.setattr(upscaler, "LEAST", 0.0)  # random weights match nothing


@pytest.mark.parametrize(
    ("fields", "how"),
    [
        ({}, "exact"),
        ({"match_subpixel": True, "pre_offsets": "smooth", "alignments": (1, 1, 2)}, "coarse"),
    ],
)
def test_tiles_give_what_the_whole_gives(small_tiles, fields, how):
    """Several references of other sizes than the image, odd sizes, statistics over the whole image."""
    weights = released(**fields)
    rgb, references = picture(*SIZE), [picture(*size, seed) for seed, size in enumerate(REFERENCES, start=1)]
    shares = []
    got = Upscaler(weights, search=how).upscale(rgb, references, progress=lambda share, what: shares.append(share))
    expected = whole(weights, rgb, references, match_coarse=4 if how == "coarse" else 0)
    np.testing.assert_allclose(got.rgb, expected, atol=2e-4 * np.abs(expected).max())
    assert got.rgb.dtype == np.float32
    assert got.search == how
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-2] == pytest.approx(1)


def test_references_are_brought_to_the_view_of_the_image(small_tiles):
    hr = skimage.data.astronaut()[:224, 100:356]
    lr, turned = (np.ascontiguousarray(image, np.float32) / 255 for image in (downscale(hr), np.rot90(hr)))
    weights = released()
    got = Upscaler(weights).upscale(lr, [turned, picture(40, 40)])
    assert got.notes == ("warped to the view of the photograph", "")
    brought = register(lr, turned).reference
    as_they_are = Upscaler(weights, registers=False)
    expected = as_they_are.upscale(lr, [brought, picture(40, 40)])
    assert expected.notes == ("", "")
    np.testing.assert_array_equal(got.rgb, expected.rgb)
    assert np.abs(got.rgb - as_they_are.upscale(lr, [turned, picture(40, 40)]).rgb).max() > 1e-3


def test_without_a_selection():
    """C2-Matching takes no statistics; large tiles, 16-bit features, no reference."""
    weights = released(
        C2Matching,
        features=8,
        context_blocks=1,
        blocks=(1, 1, 1),
        groups=2,
        vgg_channels=(4, 6, 8),
        correspondence_channels=(4, 6, 8),
    )
    rgb = picture(30, 26)
    got, expected = Upscaler(weights).upscale(rgb), whole(weights, rgb, [])
    scale = np.abs(expected).max()  # of random weights the result is larger than an image
    np.testing.assert_allclose(got.rgb / scale, expected / scale, atol=1 / 255)
    assert got.used == ()


def test_images_of_other_sizes_need_few_new_programs(monkeypatch):
    """Of similar size: only that for the flow, which is small, and has the size of the image."""
    monkeypatch.setattr(upscaler, "LEAST", 0.0)  # random weights match nothing
    engine, counts = Upscaler(released()), []
    for height, width in ((50, 54), (51, 56), (53, 55)):
        engine.upscale(picture(height, width), [picture(3 * height, 2 * width, 1)])
        counts.append({name: run._cache_size() for name, run in engine._stages._programs.items() if name != "flow"})
    assert counts[0] == counts[1] == counts[2]
    assert set(counts[0].values()) <= {1, 2}  # two: for the reference and for the image as one


def test_used_tells_another_view_from_another_picture(monkeypatch):
    """And a reference that shows nothing of the image leaves no trace."""
    monkeypatch.setattr(upscaler, "LEAST", 0.4)  # descriptors are hardly trained
    weights = released(correspondence_channels=(16, 32, 64))
    params = {**weights.params, "correspondence": untrained(weights.params["correspondence"])}
    engine = Upscaler(Released(weights.model, params, ""))
    photo, other = skimage.data.astronaut(), skimage.data.coffee()
    rgb, view, unrelated = (
        image / np.float32(255)
        for image in (downscale(photo[40:240, 100:260]), photo[48:248, 92:252], other[100:300, 100:260])
    )
    both = engine.upscale(rgb, [unrelated, view])
    assert both.used[0] == 0
    assert both.used[1] > 0.5
    np.testing.assert_array_equal(both.rgb, engine.upscale(rgb, [view]).rgb)
    alone = engine.upscale(rgb, [unrelated])
    assert alone.used == (0.0,)
    np.testing.assert_array_equal(alone.rgb, engine.upscale(rgb).rgb)


def test_matches_are_confirmed_by_a_third_of_those_around():
    place = np.stack(np.meshgrid(np.arange(7.0), np.arange(9.0), indexing="ij"), -1) + 4
    which = np.zeros((7, 9), np.int32)
    same = search.Matches(which, place, which)
    assert search.supported(same)[1:-1, 1:-1].all()
    lone = search.Matches(which, place + np.eye(9)[:7, :, None] * [0, 50], which)
    np.testing.assert_array_equal(search.supported(lone)[1:-1, 1:-1], ~np.eye(9, dtype=bool)[1:6, 1:-1])
    scattered = search.Matches(which, np.random.default_rng(0).uniform(0, 500, place.shape), which)
    assert not search.supported(scattered).any()
    two = search.Matches(np.arange(63, dtype=np.int32).reshape(7, 9), place, which)
    assert not search.supported(two).any()


def test_the_search_is_chosen_by_size(monkeypatch):
    size = (12, 22)
    assert search.choose_search("auto", size, [size, size]) == "exact"
    monkeypatch.setattr(search, "EXACT_PAIRS", 2 * 200 * 200 - 1)
    assert search.choose_search("auto", size, [size, size]) == "coarse"
    assert search.choose_search("auto", size, [size]) == "exact"
    assert search.choose_search("exact", size, [size, size]) == "exact"


@pytest.mark.parametrize("size", [(1, 1), (13, 2)])
def test_the_smallest_images(size):
    got = Upscaler(released()).upscale(picture(*size), [picture(*size, 1)])
    assert got.rgb.shape == (4 * size[0], 4 * size[1], 3)
    assert np.isfinite(got.rgb).all()


def test_flat_images_and_references_have_a_result():
    """Also of a network whose parameters are all zero: that of the linear enlargement."""
    other = picture(13, 14, 1)
    zeros = dataclasses.replace(released(), params=jax.tree.map(np.zeros_like, released().params))
    for weights in (released(), zeros):
        engine = Upscaler(weights)
        for flat in (np.full((13, 14, 3), grey, np.float32) for grey in (0.0, 0.5, 1.0)):
            for rgb, references in ((flat, [flat]), (flat, [other]), (other, [flat]), (flat, [])):
                got = engine.upscale(rgb, references)
                assert np.isfinite(got.rgb).all()
                assert all(0 <= share <= 1 for share in got.used)
                if weights is zeros:
                    enlarged = jax.image.resize(rgb, (52, 56, 3), "linear")
                    np.testing.assert_allclose(got.rgb, enlarged, atol=1e-3)


def test_scores_of_what_is_no_image():
    engine = Upscaler(released())
    for rgb, candidate in (
        (picture(8, 8), np.full((32, 32, 3), np.nan)),
        (np.full((8, 8, 3), np.inf), picture(32, 32)),
    ):
        with pytest.raises(InputError, match="values about from 0 to 1 expected"):
            engine.match_scores(rgb, [candidate])


def test_images_of_any_kind_come_back_as_they_came():
    engine = rrsr_jax.Upscaler(released())
    pixels = np.round(picture(16, 13) * 255).astype(np.uint8)
    got = engine(pixels, [Image.fromarray(pixels)])
    assert (got.shape, got.dtype) == ((64, 52, 3), np.uint8)
    grey = Image.fromarray(pixels[..., 0])
    assert (engine(grey).mode, engine(grey).size) == ("L", (52, 64))
    transparent = np.concatenate([pixels, 255 - pixels[..., :1]], -1)
    got = engine(transparent)
    assert got.shape == (64, 52, 4)
    assert abs(got[8:-8, 8:-8, 3].mean() - transparent[2:-2, 2:-2, 3].mean()) < 5
    np.testing.assert_array_equal(engine(pixels), engine(pixels))


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (np.zeros((20, 20)), r"the image: RGB of shape \(height, width, 3\) expected, got \(20, 20\)"),
        (np.zeros((0, 20, 3)), r"got \(0, 20, 3\)"),
        (np.zeros((20, 20, 3), np.uint8), "floating point expected, got uint8; divide"),
        (np.full((20, 20, 3), 255.0), "values about from 0 to 1 expected, got 255 to 255; divide"),
        (np.full((20, 20, 3), np.nan), "got nan to nan"),
    ],
)
def test_bad_images(rgb, message):
    engine = Upscaler(released())
    with pytest.raises(InputError, match=message):
        engine.upscale(rgb)
    with pytest.raises(InputError, match="reference 2: "):
        engine.upscale(picture(12, 12), [picture(12, 12), rgb])


def test_bad_arguments():
    with pytest.raises(InputError, match="search: one of auto, exact, coarse expected, got 'fast'"):
        Upscaler(released(), search="fast")
    broken = released()
    broken = Released(broken.model, jax.tree.map(lambda p: p * 1e9, broken.params), "broken")
    with pytest.raises(InputError, match="weights broken: their result is not finite"):
        Upscaler(broken).upscale(picture(12, 12))


def test_work_can_be_stopped():
    def stop(share, what):
        if share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Upscaler(released()).upscale(picture(16, 13), progress=stop)


def test_other_models_are_run_whole(monkeypatch):
    weights = released(SRCNN)
    engine, rgb = Upscaler(weights), picture(20, 17)
    got = engine.upscale(rgb, [picture(30, 30, 1)])
    np.testing.assert_allclose(
        got.rgb, weights.model.apply({"params": weights.params}, rgb[None], rgb[None])[0], atol=1e-5
    )
    assert got[1:] == ((0.0,), "none", ("",))  # a single-image model takes nothing from a reference
    with pytest.raises(InputError, match="model SRCNN takes one reference, got 2"):
        engine.upscale(rgb, [rgb, rgb])
    monkeypatch.setattr(upscaler, "MOST_WHOLE", 80 * 68 - 1)
    with pytest.raises(InputError, match="the image: model SRCNN is run whole, on at most 5,439 pixels"):
        engine.upscale(rgb)
