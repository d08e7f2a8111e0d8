"""Preparing datasets of image folders, and reading them."""

import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core import shuffle

from rrsr_jax.data import datasets, pipeline, prepare, records
from rrsr_jax.data.images import resize_bicubic
from rrsr_jax.errors import InputError
from tests.helpers import ROOT, damage, noise, tiny_config, write


def everything(folder):
    """All files but locks."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


@pytest.fixture
def pairs(tmp_path):
    """Three pairs as in CUFED, the second with a larger reference."""
    images = {f"input/{i:03}.png": noise(160, 160, i) for i in range(3)}
    images |= {f"ref/{i:03}.png": noise(*((200, 170) if i == 1 else (160, 160)), 10 + i) for i in range(3)}
    return write(tmp_path / "pairs", images)


def test_pairs_come_back_as_they_were(pairs, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    summary = prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=3)
    assert (summary.examples, summary.images, summary.new) == (3, 6, True)
    assert summary.changes == {"reference resized to 160x160": 1}
    prepared = datasets.Prepared("cufed", str(tmp_path / "data"))
    assert [example["name"] for example in prepared] == ["000", "001", "002"]
    for i, example in enumerate(prepared):
        ref = noise(200, 170, 11) if i == 1 else noise(160, 160, 10 + i)
        np.testing.assert_array_equal(example["hr"], noise(160, 160, i))
        np.testing.assert_array_equal(example["refs"], [resize_bicubic(ref, 160, 160)])
    assert not list(temporary.iterdir())


def test_groups_keep_the_order_of_their_references(tmp_path):
    images = {f"{g:03}_{k}.png": noise(20 + g, 30 - k, 10 * g + k) for g in (0, 2) for k in range(6)}
    source = write(tmp_path / "groups", images)
    prepare.prepare("cufed5/mine", str(source), str(tmp_path / "data"), count=2)
    prepared = datasets.Prepared("cufed5/mine", str(tmp_path / "data"))
    assert [example["name"] for example in prepared] == ["000", "002"]
    for k in range(5):
        np.testing.assert_array_equal(prepared[1]["refs"][k], noise(22, 29 - k, 21 + k))


def test_own_pairs_of_any_sizes_with_several_references(tmp_path):
    names = (
        "input/a.png",
        "input/a_b.png",
        "ref/a.png",
        "ref/a_b_1.png",
        "ref/a_b_2.png",
        "ref/a/side.png",
        "ref/a_3.png",
    )
    source = write(tmp_path / "own", {name: noise(12 + i, 40, i) for i, name in enumerate(names)})
    prepare.prepare("ref_pairs", str(source), str(tmp_path / "data"))
    first, second = datasets.Prepared("ref_pairs", str(tmp_path / "data"))
    assert [ref.shape[0] for ref in first["refs"]] == [14, 17, 18]
    assert [ref.shape[0] for ref in second["refs"]] == [15, 16]


def test_wr_sr_sun80_and_single_images(tmp_path):
    source = write(tmp_path / "wr", {"input/001.png": noise(), "ref/001_ref.png": noise(seed=1)})
    assert prepare.prepare("wr_sr", str(source), str(tmp_path), count=1).images == 2
    refs = {f"ref/7/{k}.jpg": noise(seed=k) for k in range(20)}
    source = write(tmp_path / "sun", {"input/7.png": noise(), **refs})
    assert prepare.prepare("sun80", str(source), str(tmp_path), count=1).images == 21
    source = write(
        tmp_path / "photos_in", {"b.jpg": noise(), "deep/a.png": noise(), ".hidden/c.png": noise(), "notes.txt": b"x"}
    )
    for name in ("photos", "urban100", "manga109"):
        assert prepare.prepare(name, str(source), str(tmp_path), count=2).images == 2
    assert [e["name"] for e in datasets.Prepared("photos", str(tmp_path))] == ["b", "deep-a"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("cufed", 11_871), ("cufed5", 126), ("sun80", 80), ("urban100", 100), ("manga109", 109), ("wr_sr", 80)],
)
def test_published_numbers_of_images_are_insisted_on(tmp_path, name, count):
    images = {"input/1.png": noise(), "ref/1.png": noise(seed=1)}
    if name == "cufed5":
        images = {f"000_{k}.png": noise(seed=k) for k in range(6)}
    elif name in ("urban100", "manga109"):
        images = {"1.png": noise()}
    source = write(tmp_path / "in", images)
    with pytest.raises(
        InputError, match=rf"1 complete examples found, {count:,} expected .*; expected in --source=.*in: "
    ):
        prepare.prepare(name, str(source), str(tmp_path / "data"))
    assert not (tmp_path / "data" / name).exists()


def test_every_problem_is_named_and_nothing_is_left(pairs, tmp_path):
    write(
        pairs,
        {"input/003.png": noise(160, 160), "ref/004.png": noise(), "input/005.png": noise(), "ref/005.png": noise()},
    )
    broken = pairs / "ref" / "001.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    messages = (
        r"003\.png: 1 reference\(s\) expected in .*ref, got 0",
        r"004\.png: no input of that name",
        r"001\.png: cannot be read as an image",
        r"input/005\.png: 160x160 pixels expected, got 24x20",
    )
    with pytest.raises(
        InputError, match=r"4 problem\(s\) in .*; mend them, or leave them out with --skip_bad"
    ) as caught:
        prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=4)
    for message in messages:
        caught.match(message)
    assert everything(tmp_path / "data") == []
    summary = prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=4, skip_bad=True)
    assert [example["name"] for example in datasets.Prepared("cufed", str(tmp_path / "data"))] == ["000", "002"]
    assert len(summary.refused) == 4
    assert "left out (4):" in prepare.report("cufed", summary)


def test_names_that_differ_in_their_ending_only(tmp_path):
    for name, files in (("photos", ("a.png", "a.jpg")), ("ref_pairs", ("input/a.png", "input/a.jpg", "ref/a.png"))):
        source = write(tmp_path / name, dict.fromkeys(files, noise()))
        with pytest.raises(InputError, match=r"a\.png: has the name of .*a\.jpg"):
            prepare.prepare(name, str(source), str(tmp_path / "data"))


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(
        InputError, match=r"no folder .*nowhere/input; expected in --source=.*: input/\*\.png .* 11,871 pairs"
    ):
        prepare.prepare("cufed", str(tmp_path / "nowhere"), str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"dataset: one of cufed, .* expected, got 'cufed6'"):
        prepare.prepare("cufed6", str(tmp_path), str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"no usable example in .*; expected in --source=.*: photographs"):
        prepare.prepare("photos", str(tmp_path), str(tmp_path / "data"))
    with pytest.raises(
        InputError, match=r"no prepared dataset cufed in .*data .*; prepare it: .*--dataset=cufed --source=DIR"
    ):
        datasets.Prepared("cufed", str(tmp_path / "data"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--data_dir=.*file/data: a writable folder expected"):
        prepare.prepare("photos", str(tmp_path), str(tmp_path / "file" / "data"))


def test_a_second_run_does_nothing(pairs, tmp_path):
    data = tmp_path / "data"
    prepare.prepare("cufed", str(pairs), str(data), count=3)
    before = {path: path.stat().st_mtime_ns for path in (data / "cufed").rglob("*")}
    summary = prepare.prepare("cufed", "nowhere", str(data))
    assert (summary.new, summary.examples) == (False, 3)
    assert {path: path.stat().st_mtime_ns for path in (data / "cufed").rglob("*")} == before
    assert "is prepared already" in prepare.report("cufed", summary)


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_full_disk_leaves_nothing(pairs, tmp_path, monkeypatch, kind):
    def fail(*_, **__):
        raise kind("write() failed: No space left on device")

    monkeypatch.setattr(datasets.Cufed, "download_and_prepare", fail)
    with pytest.raises(InputError, match=r"cannot write to .*data: .*No space left on device"):
        prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=3)
    assert everything(tmp_path / "data") == []


def test_records_are_read_once_before_they_count(pairs, tmp_path, monkeypatch):
    original = datasets.Cufed.download_and_prepare

    def half(self, **options):
        original(self, **options)
        damage(pathlib.Path(self.data_dir).parent.parent, "cufed")

    monkeypatch.setattr(datasets.Cufed, "download_and_prepare", half)
    with pytest.raises(
        InputError, match=r"what was written cannot be read back \(is the disk full\?\): cufed: record \d of 3"
    ):
        prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=3)
    assert everything(tmp_path / "data") == []


def test_a_file_that_cannot_grow(pairs, tmp_path):
    limited = (
        "import resource, sys; from rrsr_jax.data import prepare; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); prepare.main(sys.argv[1:])"
    )
    call = [
        sys.executable,
        "-c",
        limited,
        "--dataset=cufed",
        f"--source={pairs}",
        f"--data_dir={tmp_path}/data",
        "--count=3",
    ]
    process = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert f"error: cannot write to {tmp_path}/data: " in process.stderr
    assert "Traceback" not in process.stderr
    assert everything(tmp_path / "data") == []


def test_sets_larger_than_memory_are_written_in_several_files(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "EXAMPLES_PER_FILE", 2)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 10_000)
    prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=3)
    assert len(list((tmp_path / "data").rglob("*array_record*"))) == 2
    prepared = datasets.Prepared("cufed", str(tmp_path / "data"))
    assert [example["name"] for example in prepared] == ["000", "001", "002"]
    np.testing.assert_array_equal(prepared[2]["hr"], noise(160, 160, 2))


def test_killed_while_preparing(pairs, tmp_path):
    data = tmp_path / "data"
    slow = (
        "import os, sys, time; from rrsr_jax.data import datasets, prepare; original = datasets.Cufed.encode; "
        "datasets.Cufed.encode = classmethod(lambda cls, *a: [original(*a), os.write(1, b'one\\n'), time.sleep(60)][0]); "
        "prepare.prepare('cufed', *sys.argv[1:], count=3)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, pairs, data], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"one\n"
    with pytest.raises(InputError, match=r"--dataset=cufed in --data_dir=.* is in use by process \d+ on"):
        prepare.prepare("cufed", str(pairs), str(data), count=3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with pytest.raises(InputError, match="no prepared dataset cufed"):
        datasets.Prepared("cufed", str(data))
    assert prepare.prepare("cufed", str(pairs), str(data), count=3).examples == 3
    assert {path.name for path in data.iterdir()} == {"cufed"}


def test_tiles_cover_the_image(tmp_path):
    image = noise(100, 70)
    pieces = list(records.tiles(image, 32))
    assert {piece.shape for piece in pieces} == {(32, 32, 3)}
    assert len(pieces) == 4 * 3
    seen = np.zeros((100, 70), bool)
    for piece in pieces:
        (top,), (left,) = np.nonzero((image == piece[0, 0]).all(-1))
        np.testing.assert_array_equal(image[top : top + 32, left : left + 32], piece)
        seen[top : top + 32, left : left + 32] = True
    assert seen.all()
    summary = prepare.prepare("photos", str(write(tmp_path / "in", {"a.png": image})), str(tmp_path), tile=50)
    assert (summary.examples, summary.images) == (4, 1)
    assert [e["hr"].shape for e in datasets.Prepared("photos", str(tmp_path))] == [(50, 50, 3)] * 4


def test_the_command_ends_with_a_message_and_its_status(pairs, tmp_path, capsys):
    arguments = ["--dataset=cufed", f"--source={pairs}", f"--data_dir={tmp_path}/data"]
    with pytest.raises(SystemExit) as caught:
        prepare.main(arguments)
    assert caught.value.code == 2
    assert (
        "error: 3 complete examples found, 11,871 expected (--count=3 takes what is there)" in capsys.readouterr().err
    )
    prepare.main([*arguments, "--count=3"])
    assert capsys.readouterr().out.startswith("cufed: 3 examples with 6 images, all checked, in ")


@pytest.fixture
def prepared_pairs(pairs, tmp_path):
    prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=3)
    return tmp_path / "data"


def data_config(data_dir, name="cufed", **changes):
    config = tiny_config(data__name=name, data__dir=str(data_dir), data__patch=160)
    config.data.update(changes)
    return config.data


def test_pairs_reach_the_training_batches(prepared_pairs):
    batch = next(pipeline.training_batches(data_config(prepared_pairs), 3, seed=0))
    refs = [noise(160, 160, 10), resize_bicubic(noise(200, 170, 11), 160, 160), noise(160, 160, 12)]
    partner = {int(noise(160, 160, i).sum()): int(ref.sum()) for i, ref in enumerate(refs)}  # flips and turns keep sums
    assert {int(hr.sum()): int(ref.sum()) for hr, ref in zip(batch["hr"], batch["ref"], strict=True)} == partner


def test_each_of_several_references_is_trained_on(tmp_path):
    images = {"input/a.png": noise(32, 32), **{f"ref/a_{k}.png": noise(32, 32, 1 + k) for k in range(3)}}
    prepare.prepare("ref_pairs", str(write(tmp_path / "in", images)), str(tmp_path))
    batches = pipeline.training_batches(data_config(tmp_path, "ref_pairs", patch=32), 1, seed=0)
    sums = {int(batch["ref"].sum()) for batch in itertools.islice(batches, 20)}
    assert sums == {int(noise(32, 32, 1 + k).sum()) for k in range(3)}


def test_photographs_reach_the_training_batches(tmp_path):
    prepare.prepare(
        "photos", str(write(tmp_path / "in", {"a.png": noise(200, 180), "b.png": noise(40, 40)})), str(tmp_path)
    )
    batches = pipeline.training_batches(data_config(tmp_path, "photos", patch=32), 2, seed=0)
    assert next(batches)["ref_p"].shape == (2, 32, 32, 3)
    message = (
        r"config\.data\.patch: at most 40 expected, got 64: 1 of 2 images of photos are smaller: b \(40\)\. .*=64 "
    )
    with pytest.raises(InputError, match=message):
        pipeline.training_batches(data_config(tmp_path, "photos", patch=64), 1, seed=0)
    # The advice works.
    assert next(pipeline.training_batches(data_config(tmp_path, "photos", patch=40), 2, seed=0))["hr"].shape[1] == 40
    shutil.rmtree(tmp_path / "photos")
    prepare.prepare("photos", str(tmp_path / "in"), str(tmp_path), smallest=64, skip_bad=True)
    assert next(pipeline.training_batches(data_config(tmp_path, "photos", patch=64), 2, seed=0))["hr"].shape[1] == 64


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_records_are_named_or_skipped_and_counted(prepared_pairs, workers):
    assert damage(prepared_pairs, "cufed") == 1
    with pytest.raises(InputError, match=r"cufed: record 1 of 3 in .* is damaged .*; move that folder away"):
        list(itertools.islice(pipeline.training_batches(data_config(prepared_pairs), 1, seed=0), 3))
    config = data_config(prepared_pairs, skip_damaged=True, workers=workers)
    batches = pipeline.training_batches(config, 1, seed=0)
    several = list(itertools.islice(batches, 6))  # two epochs
    assert sum(int(batch["skipped"].sum()) for batch in several) == 2
    sums = {int(batch["ref"].sum()) for batch in several}
    assert sums == {int(noise(160, 160, 10).sum()), int(noise(160, 160, 12).sum())}


def test_a_record_file_that_is_cut_short(prepared_pairs):
    (path,) = (prepared_pairs / "cufed").rglob("*array_record*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for skip in (False, True):
        with pytest.raises(InputError, match=r"cufed: record 2 of 3 in .* is damaged"):
            pipeline.training_batches(data_config(prepared_pairs, skip_damaged=skip), 1, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_prefetch_change_nothing(prepared_pairs, workers):
    expected = list(itertools.islice(pipeline.training_batches(data_config(prepared_pairs), 2, seed=3), 6))

    data = pipeline.training_data(data_config(prepared_pairs, workers=workers), 2, 3)

    def batches(first):
        return data.start(first, to_device=lambda batch: batch | {"moved": np.ones(1)})

    got = list(itertools.islice(batches(0), 3)) + list(itertools.islice(batches(3), 3))
    for a, b in zip(got, expected, strict=True):
        assert a.pop("moved").all()
        for name in b:
            np.testing.assert_array_equal(a[name], b[name])


def test_the_fingerprint_is_that_of_the_images_and_options(tmp_path):
    images = {"a.png": noise(40, 40), "b/c.png": noise(40, 40, 1)}

    def fingerprint(where, changes=(), **options):
        prepare.prepare(
            "photos", str(write(tmp_path / where / "in", images | dict(changes))), str(tmp_path / where), **options
        )
        return datasets.Prepared("photos", str(tmp_path / where)).fingerprint

    first = fingerprint("1")
    assert fingerprint("2") == first  # another folder, written at another time
    others = {
        fingerprint("3", {"a.png": noise(40, 40, 2)}),
        fingerprint("4", {"d.png": noise(40, 40, 2)}),
        fingerprint("5", tile=20),
        fingerprint("6", {"a.png": b""}, skip_bad=True),
    }
    assert len(others | {first}) == 5
    for where in "12":  # as an older version left it
        (tmp_path / where / "photos" / "1.0.0" / "preparation.json").unlink()
    old = [datasets.Prepared("photos", str(tmp_path / where)).fingerprint for where in "12"]
    assert old[0] == old[1] != first


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"source": "", "options": {}, "files": {"a": 1}, "sides": []}',
        '{"source": "", "options": {}, "files": "a", "sides": []}',
    ],
)
def test_damaged_notes_of_a_preparation(text, tmp_path):
    source = write(tmp_path / "in", {"a.png": noise()})
    folder = prepare.prepare("photos", str(source), str(tmp_path)).folder
    (folder / "preparation.json").write_text(text)
    for read in (
        lambda: datasets.Prepared("photos", str(tmp_path)),
        lambda: prepare.prepare("photos", str(source), str(tmp_path)),
    ):
        with pytest.raises(InputError, match=r"preparation\.json is damaged|is there but cannot be read; move it away"):
            read()


def test_a_damaged_set_is_not_prepared_over(pairs, tmp_path):
    prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=3)
    next((tmp_path / "data" / "cufed").rglob("dataset_info.json")).unlink()
    with pytest.raises(
        InputError,
        match=r"data/cufed/1\.0\.0 is there but cannot be read; move it away and give the same command again",
    ):
        prepare.prepare("cufed", str(pairs), str(tmp_path / "data"), count=3)


def test_names_of_tiles_and_files_that_no_set_can_have(tmp_path):
    source = write(tmp_path / "in", {"a.png": noise(60, 20), "a-001.png": noise(20, 20)})
    with pytest.raises(InputError, match=r"a-001\.png: another image has the name a-001 already; rename it"):
        prepare.prepare("photos", str(source), str(tmp_path), tile=20)
    source = write(tmp_path / "odd", {"b.png": noise(), os.fsdecode(b"caf\xe9.png"): noise()})
    with pytest.raises(InputError, match=r"caf\\xe9\.png': a file name in UTF-8 expected; rename it"):
        prepare.prepare("photos/odd", str(source), str(tmp_path))
    assert prepare.prepare("photos/odd", str(source), str(tmp_path), skip_bad=True).examples == 1


def test_another_format_under_a_known_ending(tmp_path):
    source = write(tmp_path / "in", {"b.png": noise()})
    Image.fromarray(noise(seed=1)).save(source / "a.jpg", "bmp")
    prepare.prepare("photos", str(source), str(tmp_path))
    np.testing.assert_array_equal(datasets.Prepared("photos", str(tmp_path))[0]["hr"], noise(seed=1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("photos", dict(count=0), "--count: at least 1 expected, got 0; leave it out"),
        ("photos", dict(tile=8), "--tile: at least 12, what --smallest is, expected, got 8"),
        ("photos", dict(tile=-5), "--tile: at least 12"),
        ("photos", dict(smallest=3), "--smallest: at least 12 expected, got 3"),
        ("ref_pairs", dict(tile=100), "--tile: only for images without references, which ref_pairs has"),
        ("photos/..", {}, "and /NAME of letters and digits, expected, got 'photos/..'"),
        ("photos/1.0.0", {}, "and /NAME of letters and digits, expected"),
        ("photos/", {}, "and /NAME of letters and digits, expected"),
    ],
)
def test_options_that_cannot_work(tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        prepare.prepare(name, str(tmp_path), str(tmp_path / "data"), **options)
    assert not (tmp_path / "data").exists()


def test_smaller_images_than_asked_for(tmp_path):
    source = write(tmp_path / "in", {"a.png": noise(40, 48), "b.png": noise(50, 52)})
    with pytest.raises(InputError, match=r"a\.png: at least 48x48 pixels expected, got 40x48"):
        prepare.prepare("photos", str(source), str(tmp_path), smallest=48)
    assert prepare.prepare("photos", str(source), str(tmp_path), smallest=48, skip_bad=True).examples == 1
