"""State dicts from files: what they may look like, and that nothing in them is executed."""

import collections
import io
import os
import pathlib
import pickle
import re
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rrsr_jax.errors import InputError
from rrsr_jax.weights import readers
from rrsr_jax.weights.readers import read
from tests.helpers import ROOT

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.zeros(3, np.float32)}


class Code:
    """Pickled, this makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


class Tensor:
    """What `read` uses of `torch.Tensor`."""

    def __init__(self, array):
        self.array, self.dtype = array, str(array.dtype)

    def detach(self):
        return self

    def numpy(self):
        return self.array


@pytest.fixture
def fake_torch(monkeypatch):
    """Puts a PyTorch in place whose `torch.load` is the given function."""

    def put(load, version="2.10.0+cpu"):
        torch = types.SimpleNamespace(load=load, Tensor=Tensor, bfloat16="bfloat16", __version__=version)
        monkeypatch.setitem(sys.modules, "torch", torch)

    return put


def same(got, expected=None):
    expected = expected or ARRAYS
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def test_npz_and_safetensors(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    same(read(tmp_path / "x.npz"))
    safetensors.numpy.save_file(ARRAYS, tmp_path / "x.safetensors")
    same(read(tmp_path / "x.safetensors"))


def test_other_precisions_are_noted(tmp_path, capsys):
    arrays = {
        "a": np.ones(2, np.float16),
        "b": np.ones(2, np.float16),
        "c": np.ones(2, np.int64),
        "d": np.ones(2, "f4"),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    same(read(tmp_path / "x.npz"), arrays)
    assert "x.npz: 2 arrays of float16 become float32" in capsys.readouterr().err
    safetensors.numpy.save_file({"a": np.ones(2, jnp.bfloat16)}, tmp_path / "x.safetensors")
    same(read(tmp_path / "x.safetensors"), {"a": np.ones(2, jnp.bfloat16)})
    err = capsys.readouterr().err
    assert "x.safetensors: 1 arrays of bfloat16 become float32" in err
    assert err.count("note: ") == 1


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"x\.npz cannot be read: No such file"):
        read(tmp_path / "x.npz")
    (tmp_path / "x.txt").write_text("no")
    with pytest.raises(InputError, match=r"x\.txt: a \.safetensors, \.npz, \.pth, \.pt file expected"):
        read(tmp_path / "x.txt")


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_damaged_files(cut, tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    safetensors.numpy.save_file(ARRAYS, tmp_path / "x.safetensors")
    for name in ("x.npz", "x.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:cut])
        with pytest.raises(InputError, match=rf"{name} cannot be read as .*; it may be incomplete"):
            read(tmp_path / name)


def test_npz_with_another_bit(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[content.index(ARRAYS["a.weight"].tobytes()) + 5] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz cannot be read(.|\n)*CRC"):
        read(tmp_path / "x.npz")


def test_objects_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([Code(tmp_path / "made")], dtype=object))
    with pytest.raises(InputError, match="refused, because it contains pickled objects") as error:
        read(tmp_path / "x.npz")
    assert "allow_pickle" not in str(error.value)
    (tmp_path / "y.npz").write_bytes(pickle.dumps({"a": Code(tmp_path / "made")}))
    with pytest.raises(InputError, match=r"y\.npz cannot be read as \.npz"):
        read(tmp_path / "y.npz")
    assert not (tmp_path / "made").exists()
    pickle.loads((tmp_path / "y.npz").read_bytes())
    assert (tmp_path / "made").exists()  # it would have


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": Code(tmp_path / "made")}))
    with pytest.raises(InputError, match=r"x\.pth needs PyTorch: pip install 'rrsr_jax\[torch\]'"):
        read(tmp_path / "x.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu124", "2.9.1", "2.9.0a0+git1234567"])
def test_an_old_torch_opens_nothing(suffix, version, tmp_path, fake_torch):
    fake_torch(lambda *_, **__: pytest.fail("opened"), version)
    file = tmp_path / f"x{suffix}"
    file.write_bytes(pickle.dumps({"a": Code(tmp_path / "made")}))
    message = rf"x\{suffix} is not opened: PyTorch 2\.10 or newer expected, got {re.escape(version)}, .* pip install -U"
    with pytest.raises(InputError, match=message):
        read(file)
    assert not (tmp_path / "made").exists()


def test_the_oldest_torch_is_that_of_the_package():
    found = re.search(r"torch >=(\d+)\.(\d+)", (ROOT / "setup.cfg").read_text())
    assert tuple(map(int, found.groups())) == readers.SAFE_TORCH


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_torch_is_asked_for_weights_only(suffix, tmp_path, fake_torch):
    asked = []

    def load(file, **options):
        asked.append((file, options))
        return {name: Tensor(array) for name, array in ARRAYS.items()} | {"epoch": 3}

    fake_torch(load)
    file = tmp_path / f"x{suffix}"
    file.touch()
    got = read(file)
    assert asked == [(file, {"map_location": "cpu", "weights_only": True})]
    assert got.pop("epoch") == 3
    same(got)


@pytest.mark.parametrize(
    ("wrap", "notes"),
    [
        (lambda state: {"state_dict": state}, ["using 'state_dict'"]),
        (lambda state: {"epoch": 3, "model": state, 0: 1}, ["using 'model', ignoring epoch, 0"]),
        (lambda state: {"params": {"a": 1}, "params_ema": state}, ["using 'params_ema', ignoring params"]),
        (
            lambda state: {"params": {f"module.{k}": v for k, v in state.items()}},
            ["'params'", "removing the prefix `module.`"],
        ),
        (lambda state: {"state_dict": {"model": state}}, ["'state_dict'", "'model'"]),
    ],
)
def test_wrapped_weights(wrap, notes, tmp_path, fake_torch, capsys):
    fake_torch(lambda file, **_: wrap({name: Tensor(array) for name, array in ARRAYS.items()}))
    (tmp_path / "x.pth").touch()
    same(read(tmp_path / "x.pth"))
    err = capsys.readouterr().err
    assert err.count("note: ") == len(notes)
    assert all(note in err for note in notes)


def test_a_prefix_of_some_names_is_kept(tmp_path):
    np.savez(tmp_path / "x.npz", **{"module.a": np.ones(1), "b": np.ones(1)})
    assert set(read(tmp_path / "x.npz")) == {"module.a", "b"}


def test_pth_with_something_else(tmp_path, fake_torch):
    fake_torch(lambda file, **_: [1, 2])
    (tmp_path / "x.pth").touch()
    with pytest.raises(InputError, match=r"x\.pth: a dictionary of tensors expected, got list"):
        read(tmp_path / "x.pth")


def test_advice_to_execute_a_file_is_not_passed_on(tmp_path, fake_torch):
    def load(file, **_):
        raise pickle.UnpicklingError(
            "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed. "
            "Trying to load unsupported GLOBAL posix.system whose module posix is blocked."
        )

    fake_torch(load)
    (tmp_path / "x.pth").touch()
    with pytest.raises(InputError, match=r"refused, .* contains code \(GLOBAL posix\.system\); nothing was") as error:
        read(tmp_path / "x.pth")
    assert "weights_only" not in str(error.value)


def test_code_in_real_pth_files_is_not_executed(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")
    made = tmp_path / "made"
    torch.save({"a": torch.zeros(3), "b": Code(made)}, tmp_path / "x.pth")
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": Code(made)}, protocol=2))
    torch.save(Code(made), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("x.pth", "x.pt", "legacy.pth"):
        with pytest.raises(InputError, match=r"refused, .* contains code .*; nothing was executed"):
            read(tmp_path / name)
    assert not made.exists()
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert made.exists()  # it would have


def test_real_pth_files(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is an extra")
    tensors = {name: torch.nn.Parameter(torch.from_numpy(array.copy())) for name, array in ARRAYS.items()}
    torch.save({"module." + name: tensor for name, tensor in tensors.items()}, tmp_path / "x.pth")
    same(read(tmp_path / "x.pth"))
    torch.save({"params": tensors}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    same(read(tmp_path / "x.pt"))
    torch.save({name: tensor.detach().bfloat16() for name, tensor in tensors.items()}, tmp_path / "x.pth")
    same(read(tmp_path / "x.pth"), {name: array.astype(jnp.bfloat16) for name, array in ARRAYS.items()})
    os.truncate(tmp_path / "x.pth", 700)
    with pytest.raises(InputError, match=r"x\.pth cannot be read as \.pth; it may be incomplete"):
        read(tmp_path / "x.pth")


def save_list(path, arrays, protocol=4, name="params"):
    """As TensorLayer saves: one array of objects, which NumPy pickles."""
    objects = np.empty(len(arrays), dtype=object)
    objects[:] = arrays
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": objects.shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", header.getvalue() + pickle.dumps(objects, protocol=protocol))
    return path


LIST = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    np.arange(3, dtype=">f4"),
    np.float16([1, 2]),
]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_lists_of_arrays_without_names(protocol, tmp_path):
    got = read(save_list(tmp_path / "x.npz", LIST, protocol))
    assert list(got) == [f"params.{i}" for i in range(len(LIST))]
    for array, expected in zip(got.values(), LIST, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_lists_of_arrays_as_numpy_saves_them(tmp_path):
    objects = np.empty(2, dtype=object)
    objects[:] = LIST[:2]
    np.savez(tmp_path / "x.npz", params=objects)
    same(read(tmp_path / "x.npz"), {"params.0": LIST[0], "params.1": LIST[1]})


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ([Code], "pathlib.Path.touch|getattr"),
        ([np.array(["text"])], "arrays of type U4"),
        ([np.arange(3)], "arrays of type i8"),
        ([1.0, 2.0], "a list of arrays expected"),
        ([np.float32(1)], "scalar"),
        ([collections.OrderedDict], "collections.OrderedDict"),
    ],
)
def test_lists_of_anything_else_are_refused(arrays, found, tmp_path):
    arrays = [Code(tmp_path / "made") if a is Code else a for a in arrays]
    with pytest.raises(InputError, match=rf"x\.npz: refused, because it contains pickled objects.*({found})"):
        read(save_list(tmp_path / "x.npz", arrays))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cnumpy\nndarray\n(N}X\x0c\x00\x00\x00__setstate__K\x01stb.",  # sets attributes of a class
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(J\xff\xff\xff\x7ftcnumpy\ndtype\n(X\x02\x00\x00\x00f4tRI00\nC\x00tb.",
        b"\x80\x04.",
        b"",
    ],
)
def test_damaged_lists_of_arrays_are_refused(payload, tmp_path):
    file = save_list(tmp_path / "x.npz", LIST)
    with zipfile.ZipFile(file) as archive:
        header = archive.read("params.npy").partition(b"\n")[0] + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("params.npy", header + payload)
    with pytest.raises(InputError, match=r"x\.npz: refused"):
        read(file)
    assert len(read(save_list(tmp_path / "y.npz", LIST))) == len(LIST)


def test_objects_under_another_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="refused, because it contains pickled objects"):
        read(save_list(tmp_path / "x.npz", LIST, name="weights"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["pipe.safetensors", "folder.npz"])
def test_what_is_no_file(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=f"{name} cannot be read: a file expected"):
        read(tmp_path / name)
