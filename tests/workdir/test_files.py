"""Files are written whole or not at all, and nowhere but in the folder that was named."""

import pytest

from rrsr_jax.errors import InputError
from rrsr_jax.workdir.files import LONGEST, check_name, inside, scratch, write_atomically

# What a name of an example, a set or a run must never be.
HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "../../../x",
    "a/../../x",
    "/tmp/x",
    "//x",
    "a//x",
    "a/",
    "./x",
    "..\\x",
    "C:\\x",
    "a\0x",
    "a\nx",
    "a\x1b[2Jx",
    "caf\udce9",
    "a" * (LONGEST + 1),
    "ä" * (LONGEST // 2 + 1),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_lead_out_of_a_folder(name, tmp_path):
    with pytest.raises(InputError, match=r"^a name: parts"):
        check_name(name)
    with pytest.raises(InputError, match=r"^a name: parts"):
        inside(tmp_path / "out", "eval", name * 2 if len(name) > LONGEST // 2 else name)


@pytest.mark.parametrize(
    "name", ["a", "a/b", "...", "..a", "a..", ".hidden", "ä ö", "Screenshot 9.41\u202fAM", "日本", "-a", "~"]
)
def test_names_that_do_not(name, tmp_path):
    assert check_name(name) == name
    assert inside(tmp_path, name, "x.png") == tmp_path / name / "x.png"


def test_links(tmp_path):
    """A folder may be a link; a link in it may lead to another place in it, but not out of it."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (folder / "real").mkdir(parents=True)
    (folder / "within").symlink_to("real")
    (folder / "out").symlink_to(outside)
    (folder / "file").symlink_to(outside / "file")  # which is not there
    (folder / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to(folder)
    for start in (folder, tmp_path / "link"):
        assert inside(start, "real", "x") == start / "real" / "x"
        assert inside(start, "within", "x") == start / "within" / "x"
        for names in (("out",), ("out", "x"), ("out/x",), ("file",)):
            with pytest.raises(InputError, match=r"leads out of .* to .*outside"):
                inside(start, *names)
        with pytest.raises(InputError, match="a file or folder expected"):
            inside(start, "circle", "x")


def test_a_temporary_file_that_is_a_link(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "x.json.tmp").symlink_to(tmp_path / "precious")
    write_atomically(tmp_path / "x.json", "{}")
    assert (tmp_path / "x.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "x.json"]
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_a_killed_process_left_beside_a_target_goes(tmp_path):
    left = tmp_path / ".weights.unfinished"
    left.mkdir()
    (left / "half").write_text("x")
    with scratch(tmp_path / "weights") as folder:
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
