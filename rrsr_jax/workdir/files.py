"""Writing files."""

import os
import pathlib


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes the complete file or none: under a temporary name first."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
