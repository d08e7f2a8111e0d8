"""The rules for fields of a config, and the fields of each model and discriminator. `config_checks` has all others."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from rrsr_jax import SCALE_FACTOR


class Rule(NamedTuple):
    """What a value may be.

    Attributes:
      expected: the same in words, with the range of a number; for messages.
      holds: whether a value is so.
    """

    expected: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int, multiple: int = 1) -> Rule:
    """A whole number from `low` to `high`, a multiple of `multiple`."""
    what = "a whole number" if multiple == 1 else f"a multiple of {multiple}"

    def holds(value):
        return type(value) is int and low <= value <= high and value % multiple == 0  # True is no number

    return Rule(f"{what} from {low} to {high}", holds)


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Rule:
    """A number from `low` to `high`; `above` and `below` leave out `low` and `high` themselves."""

    def holds(value):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (low < value if above else low <= value) and (value < high if below else value <= high)  # never NaN

    start = f"above {low:g} and" if above else f"from {low:g}"
    end = "below" if above and below else "at most" if above else "to below" if below else "to"
    return Rule(f"a number {start} {end} {high:g}", holds)


def several(rule: Rule, fewest: int, most: int = 0, *, rising: bool = False) -> Rule:
    """`fewest` to `most` values of a rule, exactly `fewest` without `most`; if `rising`, none is smaller than the one before."""
    most = most or fewest

    def holds(value):
        if not isinstance(value, tuple | list) or not fewest <= len(value) <= most or not all(map(rule.holds, value)):
            return False
        return not rising or all(a <= b for a, b in itertools.pairwise(value))

    many = f"{fewest}" if most == fewest else f"{fewest} to {most}"
    return Rule(f"{many} values, {'rising, ' if rising else ''}each {rule.expected},", holds)


def one_of(*names: str) -> Rule:
    """One of these names."""
    shown = ", ".join(name or "an empty name" for name in names)
    return Rule(f"one of {shown}", lambda value: isinstance(value, str) and value in names)


TEXT = Rule("text", lambda value: isinstance(value, str) and "\0" not in value)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))

CHANNELS, _BLOCKS = whole(1, 4096), whole(0, 256)
PAIRS = several(CHANNELS, 1, 16)
_HALVED = whole(2, 4096)  # channels of which one layer has half
_WIDTHS = several(CHANNELS, 3)
_MATCH_TILE = whole(1, 2**40)
_DTYPE = one_of("float32", "bfloat16")
_DEFORM_CONV = one_of("", "xla", "triton", "triton_interpreted")
_RRSR = {
    "features": _HALVED,
    "context_blocks": _BLOCKS,
    "alignments": several(whole(0, 64), 3),
    "blocks": several(_BLOCKS, 3),
    "experts": whole(0, 1024),
    "gate": FLAG,
    "groups": whole(1, 1024),
    "vgg_channels": _WIDTHS,
    "correspondence_channels": _WIDTHS,
    "match_tile": _MATCH_TILE,
    "match_dtype": _DTYPE,
    "match_coarse": Rule("0 or a whole number from 2 to 64", lambda v: whole(0, 64).holds(v) and v != 1),
    "match_subpixel": FLAG,
    "pre_offsets": one_of("patches", "smooth"),
    "deform_conv": _DEFORM_CONV,
    "dtype": _DTYPE,
    "remat": one_of("none", "blocks", "fas"),
}
# The fields of each model. A config may leave some out; they have their defaults then.
MODELS: dict[str, dict[str, Rule]] = {
    "rrsr": _RRSR,
    "c2_matching": _RRSR,
    "masa": {
        "features": CHANNELS,
        "encoder_blocks": _BLOCKS,
        "decoder_blocks": _BLOCKS,
        "blocks": several(_BLOCKS, 3),
        "match_tile": _MATCH_TILE,
    },
    "ttsr": {
        "features": _HALVED,
        "blocks": several(_BLOCKS, 4),
        "vgg_channels": _WIDTHS,
        "match_tile": _MATCH_TILE,
    },
    "crossnet": {
        "features": CHANNELS,
        "flow_channels": several(CHANNELS, 6),
        "flow_up_channels": several(CHANNELS, 6),
    },
    "srntt": {
        "features": CHANNELS,
        "context_blocks": _BLOCKS,
        "blocks": several(_BLOCKS, 3),
        "vgg_channels": _WIDTHS,
        "vgg_mean": several(number(0, 1), 3),
        "vgg_std": several(number(0, 1, above=True), 3),
        "match_tile": _MATCH_TILE,
    },
    "ssen": {
        "features": CHANNELS,
        "encoder_blocks": _BLOCKS,
        "alignments": whole(0, 64),
        "blocks": _BLOCKS,
        "attention_tile": _MATCH_TILE,
        "deform_conv": _DEFORM_CONV,
    },
    "dcsr": {
        "scale": whole(SCALE_FACTOR, SCALE_FACTOR),
        "features": CHANNELS,
        "encoder_blocks": _BLOCKS,
        "ref_encoder_blocks": _BLOCKS,
        "blocks": several(_BLOCKS, 3),
        "align_features": CHANNELS,
        "match_features": CHANNELS,
        "vgg_channels": _WIDTHS,
        "match_tile": _MATCH_TILE,
    },
    "srcnn": {
        "features": several(CHANNELS, 2),
        "kernels": several(Rule("an odd number from 1 to 99", lambda v: whole(1, 99).holds(v) and v % 2 == 1), 3),
    },
    "edsr": {"features": CHANNELS, "blocks": _BLOCKS},
    "rcan": {"features": CHANNELS, "groups": _BLOCKS, "blocks": _BLOCKS, "reduction": whole(1, 4096)},
    "nlsn": {
        "features": CHANNELS,
        "groups": _BLOCKS,
        "blocks": _BLOCKS,
        "chunk": whole(1, 2**16),
        "rounds": whole(1, 1024),
        "residual_scale": number(0, 10),
        "seed": whole(0, 2**31 - 1),
    },
    "srgan": {"features": CHANNELS, "blocks": _BLOCKS},
    "msrresnet": {"features": CHANNELS, "blocks": _BLOCKS},
    "enet": {"features": CHANNELS, "blocks": _BLOCKS, "half_pixel": FLAG},
    "esrgan": {"features": CHANNELS, "blocks": _BLOCKS, "growth": CHANNELS},
    "ranksrgan": {"features": CHANNELS, "blocks": _BLOCKS},
    "ranker": {"features": PAIRS, "hidden": CHANNELS},
    "correspondence": {"channels": _WIDTHS},
}

# The fields of each discriminator, likewise.
DISCRIMINATORS: dict[str, dict[str, Rule]] = {
    "rrsr": {"features": PAIRS, "head": CHANNELS},
    "srgan": {"features": PAIRS, "hidden": CHANNELS},
    "vgg_style": {"features": PAIRS, "hidden": CHANNELS, "initial": one_of("he", "default")},
    "enet": {"features": PAIRS, "hidden": CHANNELS},
    "srntt": {"features": PAIRS, "hidden": CHANNELS},
}
