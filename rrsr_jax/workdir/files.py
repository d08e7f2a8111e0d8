"""Files that are whole or not there."""

import os
import pathlib


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or none."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
