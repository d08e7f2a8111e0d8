"""Checkpoints: what they say of themselves, damage, a full disk. On small arrays, without a model."""

import contextlib
import errno
import importlib.metadata
import json
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import rrsr_jax
from rrsr_jax.errors import InputError
from rrsr_jax.training.step import create_state
from rrsr_jax.workdir.checkpoints import Checkpoints, check_same_run, claim_workdir
from rrsr_jax.workdir.integrity import description, has_checkpoint, newest_intact, write_checksums
from tests.helpers import get_config, largest_file, tiny_config

CONFIG = tiny_config(keep_checkpoints=2, stage="gan")
KERNEL = 2**18  # bytes, too many to be stored among the paths


def state_at(step):
    rng = np.random.default_rng(step)
    params = {"conv": {"kernel": rng.random((3, 3, KERNEL // 36), np.float32), "bias": rng.random(7, np.float32)}}
    return create_state(CONFIG, jax.tree.map(jnp.asarray, params)).replace(step=jnp.asarray(step, jnp.int32))


def save(workdir, *steps, data=None):
    with contextlib.closing(Checkpoints(workdir, CONFIG, data)) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step))


def like():
    """Shapes and places of a state."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), state_at(0))


def assert_restores(checkpoints, step):
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(like()), state_at(step))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with the checkpoints 1 and 2."""
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, 1, 2)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(saved, tmp_path / "run")


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def content(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def empty(path):
    path.write_bytes(b"")


def other_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def file_of(item, step=2):
    """The item's largest file."""
    return lambda workdir: max(
        (path for path in (workdir / "checkpoints" / str(step) / item).rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def test_a_checkpoint_knows_what_it_is_of(saved):
    known = description(saved)
    assert known["config"] == json.loads(CONFIG.to_json())
    assert (known["stage"], known["step"]) == ("gan", 2)
    assert (known["versions"]["rrsr_jax"], known["versions"]["jax"]) == (rrsr_jax.__version__, jax.__version__)
    assert known["versions"]["orbax-checkpoint"] == importlib.metadata.version("orbax-checkpoint")


@pytest.mark.parametrize("damage", [half, zeros, empty, other_bit, pathlib.Path.unlink])
def test_damage_to_any_file_is_noticed(workdir, damage):
    """But for two in the checkpoint's folder itself, which restoring does without."""
    folder = workdir / "checkpoints" / "2"
    before = content(folder)
    assert len(before) > 12
    for path, data in before.items():
        if path.name in ("_CHECKPOINT_METADATA", "commit_success.txt") and path.parent == folder:
            continue
        damage(path)
        step, damaged = newest_intact(workdir)
        assert step == 1, path
        assert path.name in damaged[2] or path.name == "checksums.json"
        path.write_bytes(data)
    assert newest_intact(workdir) == (2, {})


@pytest.mark.parametrize("item", ["state", "description"])
@pytest.mark.parametrize("damage", [half, pathlib.Path.unlink, lambda path: shutil.rmtree(path.parent)])
def test_the_one_before_a_damaged_checkpoint_takes_its_place(workdir, item, damage, capsys, caplog):
    damage(file_of(item)(workdir))
    before = content(workdir)
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        assert [record.message for record in caplog.records if record.name == "absl"] == []  # of reading only
        assert checkpoints.latest() == 1
        assert_restores(checkpoints, 1)
        np.testing.assert_array_equal(
            checkpoints.read_state().generator["conv"]["kernel"], state_at(1).generator["conv"]["kernel"]
        )
    assert content(workdir) == before
    assert description(workdir)["step"] == 1
    assert f"checkpoint 2 is damaged ({workdir}/checkpoints/2" in capsys.readouterr().err


def test_a_run_goes_on_from_the_one_before(workdir):
    """It saves at the same step again; what was damaged stays, however often, and counts no more."""
    for time_ in (1, 2):
        zeros(file_of("state")(workdir))
        damaged = content(workdir / "checkpoints" / "2")
        with contextlib.closing(Checkpoints(workdir, CONFIG)) as checkpoints:
            assert_restores(checkpoints, 1)
            checkpoints.save(state_at(2))
        kept = content(workdir / "checkpoints" / f"2.damaged{time_}")
        assert sorted(kept.values()) == sorted(damaged.values())
    assert names(workdir) == ["1", "2", "2.damaged1", "2.damaged2"]
    with contextlib.closing(Checkpoints(workdir, CONFIG)) as checkpoints:
        assert_restores(checkpoints, 2)
        checkpoints.save(state_at(3))
    assert names(workdir) == ["2", "2.damaged1", "2.damaged2", "3"]


def test_nothing_intact(workdir):
    half(file_of("state", 1)(workdir))
    shutil.rmtree(workdir / "checkpoints" / "2" / "description")
    before = content(workdir)
    message = r"all checkpoints in .* damaged; (.|\n)*2: .*/description/(.|\n)*1: .*/state/.*: not as it was written"
    for config in (None, CONFIG):
        with pytest.raises(InputError, match=message):
            Checkpoints(workdir, config)
    assert content(workdir) == before
    with pytest.raises(InputError, match=r"no checkpoint in .*; the folder of a run expected that has saved one"):
        Checkpoints(workdir / "elsewhere")


def test_an_interrupted_save_does_not_count_and_goes(workdir):
    folder = workdir / "checkpoints"
    shutil.copytree(folder / "2" / "state", folder / "3.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp")
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        assert checkpoints.latest() == 2
    save(workdir, 3)
    assert names(workdir) == ["2", "3"]


def test_a_checkpoint_with_the_data_iterators_of_two_processes(workdir):
    """As older versions wrote them; they are not needed."""
    folder = workdir / "checkpoints" / "2"
    for process in range(2):
        file = folder / "data" / f"process_{process}-of-2.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"next_index": 2}')
    write_checksums(folder)
    with contextlib.closing(Checkpoints(workdir, CONFIG, {"name": "cufed"})) as checkpoints:
        assert_restores(checkpoints, 2)
        checkpoints.save(state_at(3))
    assert names(workdir) == ["2", "3"]


def test_a_run_on_another_data_set(tmp_path):
    here = {"name": "cufed", "examples": 11871, "fingerprint": "0123"}
    save(tmp_path, 1, data=here)
    assert description(tmp_path)["data"] == here
    save(tmp_path, 2, data=here)
    before = content(tmp_path)
    message = (
        r"another data set named cufed: 11871 examples with fingerprint 0123 there, 5 with 4567 here\. To go on, put"
    )
    with pytest.raises(InputError, match=message):
        save(tmp_path, 3, data={"name": "cufed", "examples": 5, "fingerprint": "4567"})
    assert content(tmp_path) == before


def fill(workdir, size, step):
    """Saves where files cannot grow beyond `size` bytes, and returns what that ends with, looking after it as a run does."""
    with largest_file(size):
        try:
            with contextlib.closing(Checkpoints(workdir, CONFIG)) as checkpoints:
                checkpoints.save(state_at(step))
                for _ in range(1000):
                    checkpoints.check()
                    time.sleep(0.01)
        except InputError as error:
            return str(error)


def test_a_full_disk(workdir, tmp_path):
    """In the background, at once, and at the first save. In a process of its own, as TensorStore goes on for a moment."""
    cases = [
        (workdir, KERNEL // 2, 3),
        (shutil.copytree(workdir, tmp_path / "2"), 10, 3),
        (tmp_path / "3", KERNEL // 2, 1),
    ]
    script = "import pathlib, sys; from tests.workdir.test_checkpoints import fill"
    script += "\nfor i in range(1, 10, 3): print(fill(pathlib.Path(sys.argv[i]), *map(int, sys.argv[i + 1 : i + 3])))"
    call = [sys.executable, "-c", script, *(str(value) for case in cases for value in case)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)
    for (folder, _, step), said in zip(cases, done.stdout.splitlines() or [done.stderr], strict=True):
        left = "the last good one is 2" if step == 3 else "there is none before it"
        assert f"cannot save checkpoint {step} to {folder}/checkpoints: File too large; {left}; free space and" in said
        assert has_checkpoint(folder) == (step == 3)
        assert step == 1 or newest_intact(folder) == (2, {})
        save(folder, step)
        assert names(folder) == (["2", "3"] if step == 3 else ["1"])
        with contextlib.closing(Checkpoints(folder)) as checkpoints:
            assert_restores(checkpoints, step)


def test_a_disk_that_fails_otherwise(workdir, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    message = r"cannot save checkpoint 3 to .*: Input/output error; the last good one is 2; mend that and give"
    with contextlib.closing(Checkpoints(workdir, CONFIG)) as checkpoints, pytest.raises(InputError, match=message):
        checkpoints.save(state_at(3))


def test_fields_that_a_config_does_not_have(tmp_path):
    claim_workdir(tmp_path, CONFIG)
    path = tmp_path / "config.json"
    there = json.loads(path.read_text())
    del there["schedule"]
    path.write_text(json.dumps(there | {"gone": 3}))
    with pytest.raises(
        InputError, match=r"gone: 3 there, no such field here\n  schedule: no such field there, steps here"
    ):
        check_same_run(path, CONFIG)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its config has none of the fields that came later; it ran with what they stand for by default."""
    for name, fields in (
        ("srcnn", ("accumulate", "pixel_loss", "weight_decay")),
        ("cufed5_gan", ("objective", "updates", "perceptual", "pixel_loss")),
    ):
        config, path = get_config(name), tmp_path / "config.json"
        before = json.loads(config.to_json())
        for field in fields:
            del before[field]
        before.get("discriminator", {}).pop("name", None)
        path.write_text(json.dumps(before))
        check_same_run(path, config)
        config.pixel_loss = "mse"
        with pytest.raises(InputError, match="pixel_loss: l1 there, mse here"):
            check_same_run(path, config)
