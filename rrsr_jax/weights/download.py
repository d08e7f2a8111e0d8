"""Downloads of published weights: a broken transfer is resumed, and the file is checked against a SHA-256.

The code is our own because pooch 1.9 cannot resume a transfer.
"""

import hashlib
import http.client
import os
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request

import tqdm

from rrsr_jax.console import log
from rrsr_jax.errors import InputError
from rrsr_jax.workdir.files import check_name
from rrsr_jax.workdir.lock import beside, only_writer

ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt; doubled for each further one
TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18


def sha256(file: pathlib.Path) -> str:
    """SHA-256 of a file's content, in hex digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def fetch(url: str, out: str, digits: str | None = None) -> pathlib.Path:
    """Downloads a file unless it exists; until it is complete and its checksum is right, it is called `FILE.part`.

    An interrupted download resumes from `FILE.part`, without an ETag: the checksum tells whether the file has changed since.

    Args:
      url: http or https.
      out: a file with the same suffix as the URL, or the folder to write it to.
      digits: the SHA-256, or at least its first eight digits; None takes them from the file name in the URL, as in
        vgg19-dcbb9e9d.pth.

    Returns:
      The file.

    Raises:
      InputError: no such address, no checksum or a wrong one, a transfer that keeps breaking, or a disk that is not
        writable; or another process downloads the same file.
    """
    name = _name(url)
    digits = _digits(name, digits)
    target = pathlib.Path(out)
    if target.suffix != pathlib.Path(name).suffix or os.path.isdir(target):
        target = target / name
    part = target.with_name(f"{target.name}.part")
    try:
        with only_writer(beside(target), f"--out={target}"):
            if target.exists():
                _check(target, digits, "move this file away, or choose another --out")
                return target
            _download(url, part, digits)
            try:
                _check(part, digits, f"what came from {url} is removed. Try again, or use another --url")
            except InputError:
                part.unlink()
                raise
            os.replace(part, target)
    except OSError as error:  # of the disk; _attempt handles those of the network
        raise InputError(f"cannot write {target}: {error}") from error
    return target


def _name(url: str) -> str:
    address = urllib.parse.urlsplit(url)
    name = pathlib.PurePosixPath(urllib.parse.unquote(address.path)).name
    if address.scheme not in ("http", "https") or not name:
        raise InputError(f"--url={url}: the http or https address of a file expected")
    try:
        return check_name(name)
    except InputError as error:
        raise InputError(f"--url={url}: {error}") from error


def _digits(name: str, digits: str | None) -> str:
    """The leading hex digits that the file's SHA-256 must have."""
    if digits is None:
        if not (match := re.search(r"-([0-9a-f]{8,64})\.\w+$", name)):
            raise InputError(f"{name} has no checksum in its name; give it as --sha256=HEX")
        return match[1]
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", digits):
        raise InputError(f"--sha256={digits}: 8 to 64 hex digits expected")
    return digits.lower()


def _check(file: pathlib.Path, digits: str, otherwise: str) -> None:
    """Raises InputError unless the file has the checksum; `otherwise` ends its message."""
    if not (found := sha256(file)).startswith(digits):
        raise InputError(f"{file}: SHA-256 {digits}... expected, got {found}; {otherwise}")


def _download(url: str, part: pathlib.Path, digits: str) -> None:
    """Completes `part`, in up to `ATTEMPTS` attempts."""
    problem = ""
    for attempt in range(ATTEMPTS):
        if not (problem := _attempt(url, part, digits)):
            return
        if attempt < ATTEMPTS - 1:
            log(f"note: {url}: {problem}; trying again")
            time.sleep(PAUSE * 2**attempt)
    kept = f"; {part} is kept, and the same command resumes from there" if part.exists() else ""
    raise InputError(f"{url}: {problem}; this was the last of {ATTEMPTS} attempts{kept}")


def _attempt(url: str, part: pathlib.Path, digits: str) -> str:
    """Requests the missing bytes of `part` once; returns the problem, or an empty string."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "rrsr_jax"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if sha256(part).startswith(digits):
                return ""
            part.unlink()
            return f"{part} belongs to another file and is removed"
        if error.code < 500:
            raise InputError(f"{url}: HTTP {error.code} {error.reason}") from error
        return f"HTTP {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return str(getattr(error, "reason", error))
    with response:
        return _receive(response, part, have if response.status == http.client.PARTIAL_CONTENT else 0)


def _receive(response: http.client.HTTPResponse, part: pathlib.Path, have: int) -> str:
    """Writes the response to `part`, after its first `have` bytes; returns the problem, or an empty string.

    `have` is the size of `part`, or 0 to start over.
    """
    total = None if response.length is None else have + response.length
    bar = tqdm.tqdm(
        desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True
    )
    with bar, part.open("ab" if have else "wb") as file:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                return f"the transfer broke after {file.tell():,} bytes ({error})"
            if not chunk:
                break
            file.write(chunk)
            bar.update(len(chunk))
        size = file.tell()
    return "" if total in (None, size) else f"the transfer broke after {size:,} of {total:,} bytes"
