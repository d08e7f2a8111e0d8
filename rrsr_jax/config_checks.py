"""What every field of a config may be. A config is checked here, completely, before anything is built from it.

`FIELDS`, and for models and discriminators `config_fields`, have a rule for each field; `check` adds what two fields must have
in common. What needs files, devices or the network itself (is there such a dataset, can the devices share the batch) is checked
where it is opened.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from rrsr_jax import SCALE_FACTOR
from rrsr_jax.config_fields import (
    CHANNELS,
    DISCRIMINATORS,
    FLAG,
    MODELS,
    TEXT,
    Rule,
    number,
    one_of,
    several,
    whole,
)
from rrsr_jax.errors import InputError

SMALLEST_PATCH = 12  # pixels a side: 3 x 3 at 1x, what matching needs
SMALLEST_MATCHER_PATCH = 80  # pixels a side that leave enough correspondences inside, when warped
SSIM_WINDOW = 11  # pixels a side
EMBEDDED_PHOTOGRAPHS = 2  # of the test set `embedded`
_MANY = 2**31 - 1  # steps and images are counted in int32


# By stage: the terms of its loss, and the models that it trains.
LOSSES = {
    "teacher": ("triplet", "info_nce"),
    "student": ("triplet", "info_nce", "distillation"),
    "rec": ("rec", "rtrr", "upscale"),
    "gan": (
        *(
            "rec",
            "rtrr",
            "upscale",
            "perceptual",
            "texture",
            "texture_transfer",
            "transferal",
            "contextual_ref",
            "contextual_hr",
        ),
        *("back_projection", "ranking", "adversarial"),
    ),
    "ranker": ("ranking",),
}
# Terms that look at features of VGG-19.
FEATURE_TERMS = ("perceptual", "texture", "texture_transfer", "contextual_ref", "contextual_hr")
# Terms of one model only, which look at what it has besides its result.
TERMS_OF = {"upscale": "srntt", "texture_transfer": "srntt", "transferal": "ttsr"}
# Of all terms, those that must have a weight; a config leaves out others that it does not have.
REQUIRED = ("triplet", "info_nce", "distillation", "rec", "rtrr")
BATCH_NORMALISED = ("srgan", "srntt")  # models with batch normalisation
MATCHERS = ("teacher", "student")  # the stages of the correspondence net
# The networks that are no super-resolution models, by the stages that train them.
OWN_MODELS: dict[Any, str] = {**dict.fromkeys(MATCHERS, "correspondence"), "ranker": "ranker"}
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
    "pixel_loss": one_of("l1", "mse", "charbonnier", "blurred_l1"),
    "weight_decay": number(0, 1),
    "schedule": one_of("steps", "cosine", "cosine_restarts"),
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
    "updates": Rule(
        "1 to 16 names, generator once and discriminator any number of times,",
        lambda value: (
            several(one_of("generator", "discriminator"), 1, 16).holds(value) and list(value).count("generator") == 1
        ),
    ),
}
_ADVERSARIAL = {
    "penalty": _WEIGHT,
    "objective": one_of("wgan_gp", "wgan_gp_per_pixel", "standard", "relativistic", "relativistic_detached"),
    "discriminator.name": one_of(*DISCRIMINATORS),
}
_RANK_SET = {
    **{f"rank_set.{method}": TEXT for method in ("srresnet", "srgan", "esrgan")},
    "rank_set.images": TEXT,
    "rank_set.stride": _COUNT,
    "rank_set.block": whole(8, 4096, multiple=2),
}
# Of VGG-19; `texture` cuts maps of the first three levels.
LAYERS = (
    *(
        f"{kind}{level}_{i}"
        for level, n in enumerate((2, 2, 4, 4, 4), 1)
        for i in range(1, n + 1)
        for kind in ("conv", "relu")
    ),
    *(f"pool{level}" for level in range(1, 6)),
)
# Not every config has these: see `_needed`.
SOMETIMES: dict[str, Rule] = {
    **_GAN,
    **_ADVERSARIAL,
    "perceptual.criterion": one_of("l1", "mse", "frobenius"),
    "perceptual.normalise": FLAG,
    **{f"{term}.layer_weights.{layer}": _WEIGHT for term in ("perceptual", "texture") for layer in LAYERS},
    **_RANK_SET,
    "ranker.features": several(CHANNELS, 1, 16),
    "ranker.hidden": CHANNELS,
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
    if part == "discriminator" and name != "name":
        return DISCRIMINATORS.get(str(values.get("discriminator.name")), {}).get(name)
    return FIELDS.get(field) or SOMETIMES.get(field) or SOMETIMES.get(f"{part}.*")


def models_of(stage: Any) -> tuple[str, ...]:
    """Names of the models that a stage trains."""
    own = OWN_MODELS.get(stage)
    return (own,) if own else tuple(name for name in MODELS if name not in OWN_MODELS.values())


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
    if not one_of(*DISCRIMINATORS).holds(values.get("discriminator.name")):  # which the others depend on
        unknown += [field for field in values if field.startswith("discriminator.") and field != "discriminator.name"]
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
    needed += [f"loss.{term}" for term in LOSSES.get(str(stage), ()) if term in REQUIRED]
    if stage in MATCHERS:
        needed += ["weights.vgg16", "weights.vgg", "weights.correspondence"]
    elif values["model.name"] in ("rrsr", "c2_matching"):
        needed.append("weights.correspondence")
    if stage == "ranker":
        needed += [*_RANK_SET, "weights.ranksrgan_ranker"]
    if stage == "gan":
        needed.append("loss.adversarial")
        needed += ["weights.discriminator", *_ADVERSARIAL] * bool(values.get("loss.adversarial"))
        needed += ["weights.vgg"] * any(values.get(f"loss.{term}") for term in FEATURE_TERMS)
        needed += ["perceptual.criterion", "perceptual.normalise"] * bool(values.get("loss.perceptual"))
        needed += ["weights.ranksrgan_ranker", "ranker.features", "ranker.hidden"] * bool(values.get("loss.ranking"))
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
    if not any(loss.get(term) for term in terms):
        yield f"config.loss: a weight above 0 expected of {' or '.join(terms)}, got {loss.to_dict()}"
    elif config.stage == "gan" and config.pixel_steps and not any(loss.get(term) for term in LOSSES["rec"]):
        yield (
            f"config.loss: a weight above 0 expected of {' or '.join(LOSSES['rec'])}, which the first {config.pixel_steps} "
            f"steps (config.pixel_steps) need, got {loss.to_dict()}"
        )
    if not any(config.learning_rates.values()):
        yield f"config.learning_rates: a rate above 0 expected, got {config.learning_rates.to_dict()}"
    decays = tuple(config.decay_steps)
    if config.schedule == "cosine" and len(decays) != 1:
        yield f"config.decay_steps: one step, where the cosine reaches 0, expected, got {decays}"
    if config.schedule == "cosine_restarts" and not (decays and all(a < b for a, b in itertools.pairwise(decays))):
        yield f"config.decay_steps: one or more rising steps, where each cosine ends, expected, got {decays}"
    if config.accumulate > 1 and config.model.name in (*BATCH_NORMALISED, "ranker"):
        yield (
            f"config.accumulate: 1 expected for {config.model.name}, whose batch normalisation looks at all images of a device, "
            f"got {config.accumulate}"
        )
    if config.stage == "gan":
        yield from _other_networks(config)
    for term, model in TERMS_OF.items():
        if loss.get(term) and config.model.name != model:
            yield f"config.loss.{term}: 0 expected for {config.model.name}, because only {model} has it, got {loss[term]!r}"
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


def _other_networks(config: ConfigDict) -> Iterator[str]:
    """Of the networks that the GAN stage's losses look at."""
    loss = config.loss
    if loss.adversarial and "discriminator" not in config.updates:
        yield f"config.updates: discriminator among them expected with config.loss.adversarial, got {tuple(config.updates)}"
    for term in ("perceptual", "texture"):
        if loss.get(term) and not (term in config and config[term].get("layer_weights")):
            yield f"config.{term}.layer_weights: a weight for one layer of VGG-19 or more expected, got none"
    layers = config.texture.layer_weights if loss.get("texture") else ()
    halved = [int(layer[4]) - (not layer.startswith("pool")) for layer in layers]  # so many times
    if halved and config.data.patch % (whole_cells := 16 * 2 ** max(halved)):
        yield (
            f"config.data.patch: a multiple of {whole_cells} expected, because config.texture cuts the maps of its layers into "
            f"cells of 16 x 16, got {config.data.patch}"
        )


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
