"""What is found in folders of images, and what is said about the rest."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from rrsr_jax.data import datasets, folders, pipeline, prepare, transforms
from rrsr_jax.data.images import matching_patch, resize_bicubic
from rrsr_jax.errors import InputError
from rrsr_jax.workdir.files import check_name
from tests.helpers import noise, tiny_config, write


def prepared(name, source, tmp_path, **options):
    """The outcome, what is reported, and the examples."""
    outcome = prepare.prepare(name, str(source), str(tmp_path / "data"), **options)
    return outcome, prepare.report(name, outcome), list(datasets.Prepared(name, str(tmp_path / "data")))


def smooth(height, width, seed=0):
    return resize_bicubic(noise(height // 6, width // 6, seed), height, width)


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("image_SRF_4/img_00{}_SRF_4_HR.png", "image_SRF_4/img_00{}_SRF_4_LR.png"),
        ("image_SRF_4/img_00{}_SRF_4_HR.png", "image_SRF_4/img_00{}_SRF_4_SelfExSR.png"),
        ("image_SRF_4/img_00{}_SRF_4_HR.png", "image_SRF_2/img_00{}_SRF_2_HR.png"),
        ("HR/img_00{}.png", "LR_bicubic/X4/img_00{}x4.png"),
        ("DIV2K_valid_HR/080{}.png", "DIV2K_valid_LR_bicubic/X4/080{}x4.png"),
        ("HR/{}.png", "LR/{}.png"),
        ("{}_HR.png", "{}_LR.png"),
    ],
)
@pytest.mark.parametrize("name", ["urban100", "photos"])
def test_low_resolution_copies_are_left_out_and_named(tmp_path, name, hr, lr):
    images = {hr.format(i): noise(40, 40, i) for i in range(2)} | {lr.format(i): noise(20, 20, i) for i in range(2)}
    source = write(tmp_path / "in", images)
    outcome, report, examples = prepared(name, source, tmp_path, count=2)
    assert [example["hr"].shape for example in examples] == [(40, 40, 3)] * 2
    (reason,) = outcome.left_out
    assert f"2 left out, {reason}: " in report
    assert all(str(source / lr.format(i)) in report for i in range(2))


def test_photographs_without_an_hr_image_beside_them_stay(tmp_path):
    names = ("beach_LR.png", "LR/a.png", "img_001_SRF_4_LR.png", "Lrish/b.png")
    outcome, _, examples = prepared("photos", write(tmp_path / "in", {n: noise() for n in names}), tmp_path)
    assert len(examples) == 4
    assert not outcome.left_out


def test_all_formats_are_taken_and_everything_else_is_named(tmp_path):
    source = write(tmp_path / "in", {"a.png": noise(), "notes.txt": b"x", ".hidden/c.png": noise(), "._a.png": b"x"})
    for i, ending in enumerate((".tif", ".gif", ".jp2", ".avif", ".bmp", ".webp", ".JPG", ".TIFF", ".ppm")):
        Image.fromarray(noise(40, 40, i)).save(source / f"{i}{ending}")
    outcome, report, examples = prepared("photos", source, tmp_path)
    assert len(examples) == 10
    assert {reason: len(paths) for reason, paths in outcome.left_out.items()} == {
        "hidden": 2,
        "no images, by their ending": 1,
    }
    assert f"1 left out, no images, by their ending: {source / 'notes.txt'}" in report
    assert "1 x palette to RGB" in report
    (source / "deep.tif").write_bytes(b"II*\0 damaged")
    with pytest.raises(InputError, match=r"deep\.tif: cannot be read as an image"):
        prepare.prepare("photos/again", str(source), str(tmp_path / "data"))


def test_links_are_followed_and_broken_ones_named(tmp_path):
    source = write(tmp_path / "in", {"a.png": noise()})
    write(tmp_path / "elsewhere", {"b.png": noise(seed=1), "more/c.png": noise(seed=2)})
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "linked_too").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(source)
    (source / "d.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    outcome, _, examples = prepared("photos", source, tmp_path)
    assert [example["name"] for example in examples] == ["a", "d", "linked-b", "linked-more-c"]
    assert sorted(outcome.left_out["links to a folder that is searched already"]) == [
        str(source / "linked" / "loop"),
        str(source / "linked_too"),
    ]
    (source / "gone.png").symlink_to("nowhere.png")
    (source / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"gone\.png: a link to nowhere\.png, which is not there; mend it or move it away"
    ) as caught:
        prepare.prepare("photos/again", str(source), str(tmp_path / "data"))
    caught.match(r"2 problem\(s\)")


def test_pairs_in_folders(tmp_path):
    names = ("top.png", "scene1/view.png", "scene2/view.png", "scene2/deep/view.png")
    images = {f"input/{n}": noise(seed=i) for i, n in enumerate(names)}
    refs = ("top.png", "scene1/view.png", "scene1/view_2.png", "scene2/view/x.png", "scene2/deep/view_a.png")
    images |= {f"ref/{n}": noise(seed=10 + i) for i, n in enumerate(refs)} | {"readme.md": b""}
    _, report, examples = prepared("ref_pairs", write(tmp_path / "in", images), tmp_path)
    assert {e["name"]: len(e["refs"]) for e in examples} == {
        "top": 1,
        "scene1-view": 2,
        "scene2-view": 1,
        "scene2-deep-view": 1,
    }
    np.testing.assert_array_equal(examples[1]["refs"][0], noise(seed=14))  # scene2-deep-view
    assert "1 left out, beside input and ref: " in report
    write(tmp_path / "in", {"ref/scene3/view.png": noise()})
    with pytest.raises(InputError, match=r"ref/scene3/view\.png: no input of that name; rename it or move it away"):
        prepare.prepare("ref_pairs/again", str(tmp_path / "in"), str(tmp_path / "data"))


def test_folders_in_a_set_that_has_none(tmp_path):
    images = {f"000_{k}.png": noise(seed=k) for k in range(6)} | {"more/001_0.png": noise()}
    outcome, _, _ = prepared("cufed5", write(tmp_path / "in", images), tmp_path, count=1)
    ((reason, paths),) = outcome.left_out.items()
    assert reason.startswith("folders")
    assert paths == [str(tmp_path / "in" / "more")]


def test_names_equal_but_for_their_unicode_composition(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    images = {f"input/{composed}.png": noise(), f"ref/{decomposed}.png": noise(seed=1)}
    _, _, examples = prepared("ref_pairs", write(tmp_path / "in", images), tmp_path)
    assert examples[0]["name"] == composed
    source = write(tmp_path / "both", {f"{composed}.png": noise(), f"{decomposed}.png": noise(seed=1)})
    with pytest.raises(InputError, match=r"has the name of .*, but for the way its letters are composed \(Unicode\)"):
        prepare.prepare("photos", str(source), str(tmp_path / "data"))


def test_names_that_meet_in_the_dataset(tmp_path):
    source = write(tmp_path / "in", {"a/b.png": noise(), "a-b.png": noise(seed=1)})
    message = r"a/b\.png: would get the name a-b in the dataset, as .*a-b\.png does; rename one or move one away"
    with pytest.raises(InputError, match=message):
        prepare.prepare("photos", str(source), str(tmp_path / "data"))
    source = write(tmp_path / "pairs", {"input/a/b.png": noise(), "input/a-b.png": noise(seed=1)})
    write(source, {"ref/a/b.png": noise(seed=2), "ref/a-b.png": noise(seed=3)})
    with pytest.raises(InputError, match=r"another image has the name a-b already; rename it"):
        prepare.prepare("ref_pairs", str(source), str(tmp_path / "data"))


def test_an_input_that_is_its_own_reference(tmp_path):
    source = write(tmp_path / "in", {"input/a.png": noise(), "ref/a_1.png": noise(), "ref/a_2.png": noise(seed=1)})
    with pytest.raises(InputError, match=r"a_1\.png: another image than the input expected, got .*input/a\.png again"):
        prepare.prepare("ref_pairs", str(source), str(tmp_path / "data"))
    source = write(tmp_path / "wr", {"input/a.png": noise(), "ref/a_ref.png": noise()})
    _, report, _ = prepared("wr_sr", source, tmp_path, count=1)  # a published set stays as it is
    assert f"1 x a reference that is the input itself: {source / 'ref' / 'a_ref.png'}" in report


def test_a_source_that_changed_since(tmp_path):
    source = write(tmp_path / "in", {"a.png": noise(), "b.png": noise(seed=1)})
    data = str(tmp_path / "data")
    prepare.prepare("photos", str(source), data)
    os.utime(source / "a.png", (1, 1))  # the same content
    assert not prepare.prepare("photos", str(source), data).new
    Image.fromarray(noise(seed=2)).save(source / "a.png", compress_level=0)
    Image.fromarray(noise(seed=3)).save(source / "c.png")
    (source / "b.png").unlink()
    message = (
        r"photos is prepared already in .*, from .*in, but not like this: 1 new \(c\.png\), 1 gone \(b\.png\), "
        r"1 changed \(a\.png\); move that folder away to prepare it anew, or .* --dataset=photos/NAME"
    )
    with pytest.raises(InputError, match=message):
        prepare.prepare("photos", str(source), data)
    with pytest.raises(InputError, match=r"--tile=64 instead of 0"):
        prepare.prepare("photos", str(source), data, tile=64)


def test_sun80_with_other_numbers_of_references(tmp_path):
    images = {f"input/{n}.png": noise(seed=n) for n in range(3)}
    images |= {f"ref/{n}/{k}.png": noise(seed=100 + k) for n, many in enumerate((20, 19, 1)) for k in range(many)}
    outcome, report, examples = prepared("sun80", write(tmp_path / "in", images), tmp_path, count=3)
    assert [len(example["refs"]) for example in examples] == [20, 19, 1]
    assert "1 x 19 references instead of the published 20: 1" in report
    assert len(outcome.changes) == 2


def test_messages_for_nothing(tmp_path):
    source = write(tmp_path / "in", {"notes.txt": b""})
    with pytest.raises(
        InputError, match=r"no usable example in .*\n.*1 left out, no images, by their ending"
    ) as caught:
        prepare.prepare("urban100", str(source), str(tmp_path / "data"))
    assert "--count=0" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0b"])
def test_names_that_lead_out_of_a_folder(name, tmp_path):
    with pytest.raises(InputError, match="a name: parts separated by /"):
        check_name(name)
    source = write(tmp_path / "in", {"a.png": noise()})
    with pytest.raises(InputError, match="a name: parts separated by /"):
        datasets.Photos.encode(folders.Files(name, source / "a.png"))
    assert check_name("scene/a..b") == "scene/a..b"


def test_names_of_records_are_checked_when_they_are_read(tmp_path, monkeypatch):
    source = write(tmp_path / "in", {"a.png": noise()})
    monkeypatch.setattr(datasets, "check_name", lambda name: name)
    examples, _ = datasets.Photos.encode(folders.Files("../a", source / "a.png"))
    monkeypatch.setattr(datasets.Photos, "encode", classmethod(lambda *_: (examples, [])))
    prepare.prepare("photos", str(source), str(tmp_path))
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"a name: parts separated by .* got '\.\./a'"):
        datasets.Prepared("photos", str(tmp_path))


@pytest.mark.parametrize("zoom", [1.0, 1.5, 1 / 1.5])
def test_the_part_of_a_reference_that_matches(zoom):
    scene = smooth(240, 300)
    patch = scene[64:128, 100:164]
    place = resize_bicubic(scene, round(240 * zoom), round(300 * zoom))
    got = matching_patch(patch, place)
    assert got.shape == patch.shape
    expected = np.round(zoom * np.array([96, 132]) - 32).astype(int)  # its centre is the patch's
    best = min(
        (
            (y, x)
            for y in range(place.shape[0] - 63)
            for x in range(place.shape[1] - 63)
            if (place[y, x] == got[0, 0]).all()
        ),
        key=lambda corner: np.abs(
            place[corner[0] : corner[0] + 64, corner[1] : corner[1] + 64].astype(int) - got
        ).sum(),
    )
    assert np.abs(np.array(best) - expected).max() <= 4


def test_references_without_a_match_or_too_small():
    flat = np.full((80, 90, 3), 7, np.uint8)
    assert matching_patch(flat[:48, :48], smooth(60, 100)).shape == (48, 48, 3)
    assert matching_patch(smooth(48, 48), flat).shape == (48, 48, 3)
    assert matching_patch(smooth(48, 48), smooth(20, 30)).shape == (48, 48, 3)


def test_own_pairs_of_any_size_are_trained_on_in_aligned_patches(tmp_path):
    scene = smooth(160, 200)
    images = {"input/a.png": scene[:120, :150], "ref/a.png": scene[24:, 32:]}
    prepare.prepare("ref_pairs", str(write(tmp_path / "in", images)), str(tmp_path))
    config = tiny_config(data__name="ref_pairs", data__dir=str(tmp_path), data__patch=48).data
    batch = next(pipeline.training_batches(config, 4, seed=0))
    assert batch["hr"].shape == batch["ref"].shape == (4, 48, 48, 3)
    assert len({hr.tobytes() for hr in batch["hr"]}) == 4
    example = datasets.Prepared("ref_pairs", str(tmp_path))[0]
    choose = transforms.ChooseReference(48)
    for seed in range(8):
        pair = choose.random_map(example, np.random.default_rng(seed))
        places = {}
        for which, offset in (("hr", np.zeros(2)), ("ref", np.array([24, 32]))):
            ys, xs = np.nonzero((scene == pair[which][0, 0]).all(-1))
            corners = [
                c
                for c in zip(ys, xs, strict=True)
                if np.array_equal(scene[c[0] : c[0] + 48, c[1] : c[1] + 48], pair[which])
            ]
            places[which] = np.array(corners[0])
            assert (places[which] >= offset).all()
        seen = np.clip(places["hr"], [24, 32], [160 - 48, 200 - 48])  # of what the reference shows
        assert np.abs(places["ref"] - seen).max() <= 4 or (places["hr"] < [24, 32]).any()
    with pytest.raises(
        InputError, match=r"config\.data\.patch: at most 120 expected, got 160: 1 of 1 images of ref_pairs"
    ):
        pipeline.training_batches(
            tiny_config(data__name="ref_pairs", data__dir=str(tmp_path), data__patch=160).data, 1, seed=0
        )
