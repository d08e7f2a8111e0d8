"""The notebook: its commands and calls are those of the program, and nothing in it is of one machine. CI executes it."""

import ast
import importlib
import json
import re

import pytest

from tests.helpers import ROOT
from tests.test_docs import check_main, single_commands

PATH = ROOT / "notebooks/rrsr_colab.ipynb"
CELLS = json.loads(PATH.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
LARGEST = 200_000  # bytes, with the pictures
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections


def test_it_is_small_and_of_no_machine():
    text = PATH.read_text()
    assert len(text) < LARGEST
    assert re.findall(r"[\s\"'(](?:/(?:home|root|tmp|usr|work|content|Users)/|[A-Z]:\\\\)[^\s\"']*", text) == []
    assert [output for cell in CELLS for output in cell.get("outputs", []) if output["output_type"] == "error"] == []


def commands():
    """What the cells give to `run`; values in braces stand as 1."""
    for code in CODE:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run":
                parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
                yield "".join(
                    str(getattr(part, "value", "")) if isinstance(part, ast.Constant) else "1" for part in parts
                )


def test_its_commands_are_accepted(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = list(commands())
    assert len(lines) == 2
    for line in lines:
        (command,) = single_commands(line.split())
        assert command.program == "rrsr_jax.main"
        check_main(command)


def test_what_it_imports_exists():
    imports = [
        node for code in CODE for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) and node.module
    ]
    of_project = [node for node in imports if node.module.startswith("rrsr_jax")]
    assert of_project
    for node in of_project:
        module = importlib.import_module(node.module)
        assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
