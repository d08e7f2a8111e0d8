"""Writing files."""

import os
import pathlib


def write_atomically(path: pathlib.Path, content: str | bytes | bytearray) -> None:
    """Writes the complete file or none: under a temporary name first."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
