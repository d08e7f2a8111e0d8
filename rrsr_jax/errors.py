"""The exception for bad input, and the error numbers of a full disk."""

import errno
from collections.abc import Mapping, Sequence

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # numbers of an OSError


class InputError(ValueError):
    """Bad input (files, folders, config, weights). The message says what was expected, what came, and what to do."""


def check_shapes(
    what: str, expected: Mapping[str, tuple], got: Mapping[str, tuple], others: Sequence[str] = ()
) -> None:
    """Raises InputError if shapes differ. It lists every missing, unexpected and wrong shape, and `others`, more differences."""
    lines = [f"missing: {k} {tuple(expected[k])}" for k in expected if k not in got]
    lines += [f"unexpected: {k} {tuple(got[k])}" for k in got if k not in expected]
    lines += [
        f"wrong shape: {k}: {tuple(expected[k])} expected, got {tuple(got[k])}"
        for k in expected
        if k in got and tuple(expected[k]) != tuple(got[k])
    ]
    lines += others
    if lines:
        raise InputError(f"{what} do not fit ({len(lines)} differences):\n  " + "\n  ".join(lines))
