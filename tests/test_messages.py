"""What messages advise."""

import ast
import re

from tests.helpers import ROOT


def texts(tree):
    """All string constants but docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def test_no_message_advises_to_delete_files():
    """What cannot be used as it is may still be needed: it is moved away, or something else gets another name."""
    files = [path for folder in ("rrsr_jax", "kernels") for path in (ROOT / folder).rglob("*.py")]
    found = {text for path in files for text in texts(ast.parse(path.read_text()))}
    assert len(found) > 1000
    advice = re.compile(r"\b(remove|delete|erase|rm) (it|that|this|the|them|one|-)", re.IGNORECASE)
    assert [text for text in found if advice.search(text)] == []
