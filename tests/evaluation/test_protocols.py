"""Test sets: which references there are, and how images are padded."""

import numpy as np
import pytest

from rrsr_jax.data import prepare
from rrsr_jax.data.images import downscale
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import protocols
from tests.helpers import grey, noise, open_set, tiny_config, write


def test_images_that_references_name(groups):
    test_set = open_set(groups, "cufed5")
    assert test_set.references == ("bicubic", "level_1", "stack", "unrelated", "lr_itself")
    for g in range(3):
        example = test_set[g]
        for k in range(1, 6):
            np.testing.assert_array_equal(
                test_set.reference_image(f"level_{k}", g, example), grey(40 * g + 5 * k, 40 + k, 36 - k)
            )
        np.testing.assert_array_equal(test_set.reference_image("reference", g, example), example["refs"][0])
        np.testing.assert_array_equal(
            test_set.reference_image("lr_itself", g, example), downscale(example["hr"][: 40 + g // 3, :48])
        )
        unrelated = test_set.reference_image("unrelated", g, example)
        np.testing.assert_array_equal(unrelated, test_set[(g + 1) % 3]["refs"][0])
        other = test_set.reference_image("other", g, example)
        assert any(other is not None and np.array_equal(other, test_set[i]["hr"]) for i in range(3) if i != g)
        stacked = test_set.reference_image("stack", g, example)
        assert stacked.shape == (2500, 500, 3)
        for k in range(5):
            ref, canvas = example["refs"][k], stacked[500 * k : 500 * (k + 1)]
            np.testing.assert_array_equal(canvas[: ref.shape[0], : ref.shape[1]], ref)
            assert canvas.sum() == ref.sum()
        assert test_set.reference_image("all_references", g, example).shape == (5 * 45, 35, 3)


def test_the_drawn_reference_is_always_the_same_one(groups):
    test_set = open_set(groups, "cufed5", references="drawn")
    draws = [[test_set.reference_image("drawn", i, test_set[0])[0, 0, 0] for i in range(40)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert set(draws[0]) == {5, 10, 15, 20, 25}
    # Protocols depend on these: another seed or generator would make published sets other sets.
    assert [int(draw) // 5 for draw in draws[0][:8]] == [2, 4, 4, 1, 4, 2, 1, 2]


def test_references_larger_than_the_canvas():
    with pytest.raises(InputError, match="references of at most 500x500 pixels expected, got 501x20"):
        protocols.stack([noise(501, 20)], 500)


def test_the_paper_pads_before_downsampling():
    hr, ref = noise(41, 50), noise(30, 83, 1)
    lr, padded = protocols.paper_inputs(hr, ref)
    assert (lr.shape, padded.shape) == ((10, 20, 3), (40, 80, 3))
    padded_hr = np.zeros((40, 80, 3), np.uint8)
    padded_hr[:40, :48] = hr[:40, :48]
    np.testing.assert_array_equal(lr, downscale(padded_hr))
    np.testing.assert_array_equal(padded[:28, :80], ref[:28, :80])
    assert not padded[28:].any()
    lr, padded = protocols.paper_inputs(noise(40, 48), noise(40, 48, 1))  # no padding
    np.testing.assert_array_equal(lr, downscale(noise(40, 48)))
    np.testing.assert_array_equal(padded, noise(40, 48, 1))


def test_bucketed_inputs_are_mirrored():
    hr, ref = noise(41, 50), noise(30, 83, 1)
    lr, padded = protocols.bucket_inputs(hr, ref, (64, 64, 32, 96))
    assert (lr.shape, padded.shape) == ((16, 16, 3), (32, 96, 3))
    own = downscale(hr[:40, :48])
    np.testing.assert_array_equal(lr[:10, :12], own)
    np.testing.assert_array_equal(lr[10:, :12], own[:3:-1])
    np.testing.assert_array_equal(padded[:30, 83:], ref[:, :69:-1])


def test_buckets_hold_their_images_and_are_few():
    rng = np.random.default_rng(0)
    shapes = [tuple(int(n) for n in rng.integers(200, 500, 4)) for _ in range(300)]
    chosen = protocols.buckets(shapes)
    for shape, bucket in zip(shapes, chosen, strict=True):
        own = [-(-n // 32) * 32 for n in shape]
        assert all(b >= n and b % 32 == 0 for b, n in zip(bucket, shape, strict=True))
        assert bucket[0] * bucket[1] <= 1.5 * own[0] * own[1]
        assert bucket[2] * bucket[3] <= 1.5 * own[2] * own[3]
    assert len(set(chosen)) < len(set(shapes)) / 3
    assert protocols.buckets([(64, 64, 32, 32)] * 3) == [(64, 64, 32, 32)] * 3


def test_a_set_of_one_image_has_no_other(tmp_path):
    prepare.prepare("photos", str(write(tmp_path / "in", {"a.png": noise(48, 48)})), str(tmp_path))
    assert open_set(tmp_path, "photos").references == ("bicubic", "lr_itself")
    with pytest.raises(
        InputError, match=r"config\.eval\.references: unrelated takes another image of the set, photos has only one"
    ):
        open_set(tmp_path, "photos", references="unrelated")


def test_references_that_are_asked_for(groups):
    assert open_set(groups, "cufed5", references="level_2,level_2,bicubic").references == ("bicubic", "level_2")
    for references in ("level_0", "level_6", "best"):
        with pytest.raises(InputError, match=r"config\.eval\.references"):
            open_set(groups, "cufed5", references=references)


def test_only_published_references_are_padded_as_published(groups):
    test_set = open_set(groups, "cufed5")
    assert [test_set.pads_as_published(r) for r in test_set.references[1:]] == [True, True, False, False]
    assert not open_set(groups, "cufed5", published_padding=False).pads_as_published("level_1")


def test_embedded_photographs():
    config = tiny_config(eval__crops=4).eval
    (test_set,) = protocols.test_sets(config)
    names = [example["name"] for example in test_set]
    assert [name.split("_")[0] for name in names] == ["chelsea", "chelsea", "coffee", "coffee"]
    again = protocols.test_sets(config)[0]
    for i, example in enumerate(test_set):
        np.testing.assert_array_equal(example["hr"], again[i]["hr"])
        other = test_set[(i + 2) % 4]
        np.testing.assert_array_equal(test_set.reference_image("unrelated", i, example), other["refs"][0])
