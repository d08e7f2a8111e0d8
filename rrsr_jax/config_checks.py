"""What every field of a config may be. A config is checked here, completely, before anything is built from it.

`FIELDS` and `MODELS` have a rule for each field; `check` adds what two fields must have in common. What needs files, devices or
the network itself (is there such a dataset, can the devices share the batch) is checked where it is opened.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.errors import InputError

SMALLEST_PATCH = 12  # pixels a side: 3 x 3 at 1x, what matching needs
SMALLEST_MATCHER_PATCH = 80  # pixels a side that leave enough correspondences inside, when warped
SSIM_WINDOW = 11  # pixels a side
EMBEDDED_PHOTOGRAPHS = 2  # of the test set `embedded`
_MANY = 2**31 - 1  # steps and images are counted in int32


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

# By stage: the terms of its loss, and the models that it trains.
LOSSES = {
    "teacher": ("triplet", "info_nce"),
    "student": ("triplet", "info_nce", "distillation"),
    "rec": ("rec", "rtrr"),
    "gan": ("rec", "rtrr", "perceptual", "adversarial"),
}
MATCHERS = ("teacher", "student")  # the stages of the correspondence net
_CHANNELS, _BLOCKS = whole(1, 4096), whole(0, 256)
_HALVED = whole(2, 4096)  # channels of which one layer has half
_WIDTHS = several(_CHANNELS, 3)
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
        "features": _CHANNELS,
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
        "features": _CHANNELS,
        "flow_channels": several(_CHANNELS, 6),
        "flow_up_channels": several(_CHANNELS, 6),
    },
    "srntt": {
        "features": _CHANNELS,
        "context_blocks": _BLOCKS,
        "blocks": several(_BLOCKS, 3),
        "vgg_channels": _WIDTHS,
        "vgg_mean": several(number(0, 1), 3),
        "vgg_std": several(number(0, 1, above=True), 3),
        "match_tile": _MATCH_TILE,
    },
    "ssen": {
        "features": _CHANNELS,
        "encoder_blocks": _BLOCKS,
        "alignments": whole(0, 64),
        "blocks": _BLOCKS,
        "attention_tile": _MATCH_TILE,
        "deform_conv": _DEFORM_CONV,
    },
    "dcsr": {
        "scale": whole(SCALE_FACTOR, SCALE_FACTOR),
        "features": _CHANNELS,
        "encoder_blocks": _BLOCKS,
        "ref_encoder_blocks": _BLOCKS,
        "blocks": several(_BLOCKS, 3),
        "align_features": _CHANNELS,
        "match_features": _CHANNELS,
        "vgg_channels": _WIDTHS,
        "match_tile": _MATCH_TILE,
    },
    "srcnn": {
        "features": several(_CHANNELS, 2),
        "kernels": several(Rule("an odd number from 1 to 99", lambda v: whole(1, 99).holds(v) and v % 2 == 1), 3),
    },
    "edsr": {"features": _CHANNELS, "blocks": _BLOCKS},
    "rcan": {"features": _CHANNELS, "groups": _BLOCKS, "blocks": _BLOCKS, "reduction": whole(1, 4096)},
    "nlsn": {
        "features": _CHANNELS,
        "groups": _BLOCKS,
        "blocks": _BLOCKS,
        "chunk": whole(1, 2**16),
        "rounds": whole(1, 1024),
        "residual_scale": number(0, 10),
        "seed": whole(0, 2**31 - 1),
    },
    "srgan": {"features": _CHANNELS, "blocks": _BLOCKS},
    "msrresnet": {"features": _CHANNELS, "blocks": _BLOCKS},
    "enet": {"features": _CHANNELS, "blocks": _BLOCKS, "half_pixel": FLAG},
    "esrgan": {"features": _CHANNELS, "blocks": _BLOCKS, "growth": _CHANNELS},
    "ranksrgan": {"features": _CHANNELS, "blocks": _BLOCKS},
    "correspondence": {"channels": _WIDTHS},
}

# Files of pretrained parameters, see `weights.KINDS`: of models, encoders, discriminators, and the Ranker.
WEIGHTS = (
    *("rrsr", "c2_matching", "masa", "ttsr", "crossnet", "srntt", "ssen", "dcsr", "dcsr_x2"),
    *("nlsn", "nlsn_small", "srgan", "msrresnet", "enet", "esrgan", "ranksrgan"),
    *("correspondence", "vgg", "vgg16", "vgg19_full", "srntt_vgg19"),
    *(
        "discriminator",
        "srgan_discriminator",
        "vgg_style_discriminator",
        "enet_discriminator",
        "ranksrgan_discriminator",
    ),
    "ranksrgan_ranker",
)

_COUNT, _STEPS = whole(1, 2**16), whole(1, _MANY)
_WEIGHT = number(0, 1e6)  # of a term of the loss
_SHARE = number(0, 1)
_DEGRADATION = {"share": _SHARE, "blur": number(0, 100), "noise": number(0, 255), "jpeg": whole(1, 100)}

# Every config has these. Those of `model` are in `MODELS`.
FIELDS: dict[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "stage": one_of(*LOSSES),
    "init_gain": number(0, 1e3, above=True),
    "init_from": TEXT,
    "data.name": TEXT,
    "data.dir": TEXT,
    "data.patch": whole(SMALLEST_PATCH, 4096, multiple=SCALE_FACTOR),
    "data.warp": FLAG,
    "data.warp_range": several(number(0, 2048), 2, rising=True),
    "data.view.shift": _SHARE,
    "data.view.corners": number(0, 0.25),
    "data.view.whole_pixels": FLAG,
    "data.view.rotation": number(0, 180),
    "data.view.zoom": several(number(0.25, 4), 2, rising=True),
    "data.pairs": one_of("warp", "view"),
    "data.reference_shares.unrelated": _SHARE,
    "data.reference_shares.none": _SHARE,
    "data.light.exposure": number(0, 2),
    "data.light.white_balance": number(0, 2),
    "data.light.contrast": number(0, 1, below=True),
    **{f"data.degradation.{name}": rule for name, rule in _DEGRADATION.items()},
    **{f"data.reference_degradation.{name}": rule for name, rule in _DEGRADATION.items()},
    "data.skip_damaged": FLAG,
    "data.threads": whole(0, 1024),
    "data.prefetch": whole(0, 2**16),
    "data.workers": whole(0, 1024),
    "batch_size": _COUNT,
    "accumulate": _COUNT,
    "steps": _STEPS,
    "adam_betas": several(number(0, 1, below=True), 2),
    "schedule": one_of("steps", "cosine"),
    "decay_steps": several(_STEPS, 0, 1000),
    "decay_factor": number(0, 1, above=True),
    "ema_decay": number(0, 1, below=True),
    "log_every": _STEPS,
    "profile_steps": whole(0, _MANY),
    "image_every": _STEPS,
    "checkpoint_every": _STEPS,
    "keep_checkpoints": _COUNT,
    "eval.sets": TEXT,
    "eval.dir": TEXT,
    "eval.references": TEXT,
    "eval.every": whole(0, _MANY),
    "eval.published_padding": FLAG,
    "eval.border": whole(0, 1024),
    "eval.niqe": FLAG,
    "eval.lpips": TEXT,
    "eval.dists": TEXT,
    "eval.limit": whole(0, _MANY),
    "eval.shown": whole(0, 2**16),
    "eval.sheets": whole(0, 2**16),
    "eval.crops": whole(1, 2**16),
    "eval.patch": whole(SMALLEST_PATCH, 4096, multiple=SCALE_FACTOR),
}
_GAN = {
    "pixel_steps": whole(0, _MANY),
    "penalty": _WEIGHT,
    "discriminator.features": several(_CHANNELS, 1, 16),
    "discriminator.head": _CHANNELS,
}
# Not every config has these: see `_needed`.
SOMETIMES: dict[str, Rule] = {
    **_GAN,
    **{f"loss.{term}": _WEIGHT for terms in LOSSES.values() for term in terms},
    **{f"weights.{name}": TEXT for name in WEIGHTS},
    "learning_rates.*": number(0, 1e3),
}


def check(config: ConfigDict) -> None:
    """Raises InputError unless every field is there, known and in range; names each that is not, its range, and its value."""
    values = dict(_flat(config))
    if not isinstance(config.get("weights"), ConfigDict):  # which may be empty
        raise InputError("config.weights: fields with the names of files expected, got none")
    problems = list(_each(values)) or list(_together(config))
    if problems:
        raise InputError("\n".join(problems))


def rule_of(field: str, values: Mapping[str, Any]) -> Rule | None:
    """The rule of a field, with dots, in a config with these values; None for a field that nothing reads."""
    part, _, name = field.rpartition(".")
    if field == "model.name":
        return one_of(*models_of(values.get("stage")))
    if part == "model":
        return MODELS.get(values["model.name"], {}).get(name)
    return FIELDS.get(field) or SOMETIMES.get(field) or SOMETIMES.get(f"{part}.*")


def models_of(stage: Any) -> tuple[str, ...]:
    """Names of the models that a stage trains."""
    return tuple(name for name in MODELS if (name == "correspondence") == (stage in MATCHERS))


def _flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields with dots, and their values."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _each(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with single fields."""
    names = one_of(*models_of(values.get("stage")))
    if not names.holds(values.get("model.name")):
        yield f"config.model.name: {names.expected} expected, got {values.get('model.name')!r}"
        return
    for field in _needed(values):
        rule = rule_of(field, values)
        if field not in values and rule is not None:
            yield f"config.{field}: {rule.expected} expected, got no such field"
    model = values["model.name"]
    if unknown := [field for field in values if field.startswith("model.") and rule_of(field, values) is None]:
        listed = ", ".join(field.removeprefix("model.") for field in unknown)
        yield f"config.model: {model} has no {listed}; it has: {', '.join(MODELS[model])}"
    for field, value in values.items():
        rule = rule_of(field, values)
        if rule is None and field not in unknown:
            yield f"config.{field}: no field of that name is known; leave it out, or correct its name"
        elif rule is not None and not rule.holds(value):
            yield f"config.{field}: {rule.expected} expected, got {value!r}"


def _needed(values: Mapping[str, Any]) -> list[str]:
    """Names of the fields that must be there."""
    stage = values.get("stage")
    needed = [*FIELDS, "learning_rates.default", *(_GAN if stage == "gan" else ())]
    needed += [f"loss.{term}" for term in LOSSES.get(str(stage), ())]
    if stage in MATCHERS:
        needed += ["weights.vgg16", "weights.vgg", "weights.correspondence"]
    elif values["model.name"] in ("rrsr", "c2_matching"):
        needed.append("weights.correspondence")
    if stage == "gan":
        needed += ["weights.vgg"] * bool(values.get("loss.perceptual"))
        needed += ["weights.discriminator"] * bool(values.get("loss.adversarial"))
    return needed


def _together(config: ConfigDict) -> Iterator[str]:
    """What is wrong with fields that are right one by one."""
    data, loss = config.data, config.loss
    terms = LOSSES[config.stage]
    for term, weight in loss.items():
        if weight and term not in terms:
            yield (
                f"config.loss.{term}: 0 expected, because stage {config.stage} has the terms {', '.join(terms)} only, "
                f"got {weight!r}"
            )
    if not any(loss[term] for term in terms):
        yield f"config.loss: a weight above 0 expected of {' or '.join(terms)}, got {loss.to_dict()}"
    elif config.stage == "gan" and config.pixel_steps and not (loss.rec or loss.rtrr):
        yield (
            f"config.loss: a weight above 0 expected of rec or rtrr, which the first {config.pixel_steps} steps "
            f"(config.pixel_steps) need, got {loss.to_dict()}"
        )
    if not any(config.learning_rates.values()):
        yield f"config.learning_rates: a rate above 0 expected, got {config.learning_rates.to_dict()}"
    if config.schedule == "cosine" and len(config.decay_steps) != 1:
        yield f"config.decay_steps: one step, where the cosine reaches 0, expected, got {tuple(config.decay_steps)}"
    if config.stage in MATCHERS and data.patch < SMALLEST_MATCHER_PATCH:
        yield (
            f"config.data.patch: at least {SMALLEST_MATCHER_PATCH} expected, or a pair has too few correspondences to learn "
            f"from, got {data.patch}"
        )
    warped = {"config.data.patch": data.patch} if data.warp or config.stage in MATCHERS else {}
    if config.stage in MATCHERS and config.eval.sets:
        warped["config.eval.patch"] = config.eval.patch
    for field, patch in warped.items():
        if data.warp_range[1] >= patch / 2:
            yield (
                f"config.data.warp_range: two rising numbers from 0 to below {patch / 2:g}, half of {field}, expected, "
                f"got {data.warp_range}"
            )
    if sum(data.reference_shares.values()) > 1:
        yield f"config.data.reference_shares: together at most 1 expected, got {data.reference_shares.to_dict()}"
    if "embedded" in config.eval.sets.split(","):
        yield from _embedded(config.eval)


def _embedded(evaluation: ConfigDict) -> Iterator[str]:
    if evaluation.patch - 2 * evaluation.border < SSIM_WINDOW:
        yield (
            f"config.eval.patch: at least {SSIM_WINDOW} larger than two borders of {evaluation.border} expected, "
            f"got {evaluation.patch}"
        )
    if evaluation.crops % EMBEDDED_PHOTOGRAPHS:
        yield (
            f"config.eval.crops: a multiple of {EMBEDDED_PHOTOGRAPHS} photographs from {EMBEDDED_PHOTOGRAPHS} to {2**16} "
            f"expected, got {evaluation.crops}"
        )
