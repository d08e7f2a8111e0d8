"""Every field of a config has a rule, and a value outside it ends with one message before anything is built."""

import dataclasses
import functools
import re

import pytest
from ml_collections import ConfigDict

from kernels import deform_conv
from rrsr_jax import config_checks, models, weights
from rrsr_jax.data import datasets
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import metrics
from rrsr_jax.models import encoders, rrsr
from rrsr_jax.models.contract import read_contract
from rrsr_jax.models.correspondence import CorrespondenceNet
from rrsr_jax.models.discriminator import DISCRIMINATORS
from rrsr_jax.models.ranksrgan import Ranker
from rrsr_jax.training import adversarial, passes, stages, train
from tests.helpers import CONFIGS, get_config, tiny_config

VALUES = {name: dict(config_checks._flat(get_config(name))) for name in CONFIGS}
# Each field with one config that has it; of a field whose rule depends on the model, one for each model.
FIELDS = {
    (field, values["model.name"] if field.startswith("model.") else ""): name
    for name, values in VALUES.items()
    for field in values
}
ANY_NUMBER = ("discriminator.features", "ranker.features", "updates", "decay_steps")  # of values
NO_NUMBERS = (float("nan"), float("inf"), -float("inf"), -1, -1e-9, 1e13, 2**41, None, "1", [1], 1j)
BAD = {
    bool: (0, 2, "yes", None),
    str: (5, None, b"x", "a\0b", ("a",)),
    int: (*NO_NUMBERS, True, 10**400, 1.5),
    float: NO_NUMBERS,
}


def holder_of(config, field):
    """The part of a config that holds a field, and its name there."""
    *parts, last = field.split(".")
    return functools.reduce(lambda part, name: part[name], parts, config), last


def changed(name, field, value):
    """The config with any value at all in this field."""
    config = get_config(name)
    holder, last = holder_of(config, field)
    with holder.ignore_type():
        holder[last] = value
    return config


def message(config):
    with pytest.raises(InputError) as error:
        config_checks.check(config)
    (line,) = str(error.value).splitlines()
    return line


def bad_values(value):
    """Values that are wrong wherever `value` is right."""
    if isinstance(value, tuple):
        wrong = [(bad, *value[1:]) for bad in BAD[type(value[0])]] if value else [("1",), (0,)]
        return [*wrong, 5, None, "1", *([(*value, value[0]), value[:-1]] if value else [])]
    return BAD[type(value)]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_in_range_and_every_number_has_a_range(name):
    config_checks.check(get_config(name))
    for field, value in VALUES[name].items():
        rule = config_checks.rule_of(field, VALUES[name])
        assert rule is not None, field
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            assert re.search(r"\d.* (to|at most|below) \d", rule.expected), f"{field}: {rule.expected}"


@pytest.mark.parametrize(("field", "model"), FIELDS)
def test_a_bad_value_is_named_with_its_field_and_range(field, model):
    name = FIELDS[field, model]
    for bad in bad_values(VALUES[name][field]):
        if isinstance(bad, tuple) and (field in ANY_NUMBER or model == "ranker") and "1" not in bad:
            continue  # of any number of values
        config = changed(name, field, bad)
        rule = config_checks.rule_of(field, VALUES[name])
        got = dict(config_checks._flat(config))[field]  # whole numbers may have become floats
        assert message(config) == f"config.{field}: {rule.expected} expected, got {got!r}"


@pytest.mark.parametrize("field", [field for field, model in FIELDS if not model])
def test_a_field_that_is_missing_or_unknown_is_named(field):
    name = FIELDS[field, ""]
    config = get_config(name)
    holder, last = holder_of(config, field)
    with holder.unlocked():
        holder[f"{last}_"] = holder[last]
    if not field.startswith("learning_rates."):
        assert f"config.{field}_: no field of that name is known" in message(config)
    with holder.unlocked():
        del holder[f"{last}_"], holder[last]
    if field in config_checks.FIELDS or field == "learning_rates.default":
        assert re.match(rf"config\.{field}: .* expected, got no such field", message(config))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        (
            "demo",
            {"loss.rec": 0.0, "loss.rtrr": 0.0},
            "config.loss: a weight above 0 expected of rec or rtrr or upscale, got ",
        ),
        (
            "cufed5_gan",
            {"stage": "rec"},
            "config.loss.perceptual: 0 expected, because stage rec has the terms rec, rtrr, upscale only, got 0.0001",
        ),
        ("matcher:student", {"stage": "teacher"}, "config.loss.distillation: 0 expected, because stage teacher has "),
        (
            "cufed5_gan",
            {"loss.rec": 0.0, "loss.rtrr": 0.0},
            "config.loss: a weight above 0 expected of rec or rtrr or upscale, which the first 10000 steps",
        ),
        (
            "srcnn",
            {"learning_rates.default": 0.0, "learning_rates.conv3": 0.0},
            "config.learning_rates: a rate above 0",
        ),
        ("demo", {"schedule": "cosine", "decay_steps": (1, 2)}, "config.decay_steps: one step, where the cosine"),
        (
            "demo",
            {"schedule": "cosine_restarts", "decay_steps": (2, 2)},
            "config.decay_steps: one or more rising steps, where each cosine ends, expected, got (2, 2)",
        ),
        (
            "table1:srgan_rec",
            {"accumulate": 2},
            "config.accumulate: 1 expected for srgan, whose batch normalisation looks at all images of a device, got 2",
        ),
        (
            "table1:enet",
            {"data.patch": 96},
            "config.data.patch: a multiple of 64 expected, because config.texture cuts",
        ),
        ("table1:dcsr", {"loss.adversarial": 1.0}, "config.weights.discriminator: text expected, got no such field"),
        (
            "cufed5_gan",
            {"updates": ("generator",)},
            "config.updates: discriminator among them expected with config.loss.adversarial, got ('generator',)",
        ),
        ("matcher:teacher", {"data.patch": 64}, "config.data.patch: at least 80 expected, "),
        (
            "demo",
            {"data.warp_range": (2.0, 32.0)},
            "config.data.warp_range: two rising numbers from 0 to below 32, half",
        ),
        (
            "chain:teacher",
            {"eval.patch": 16},
            "config.data.warp_range: two rising numbers from 0 to below 8, half of config.e",
        ),
        (
            "photo:rec",
            {"data.reference_shares.unrelated": 0.8, "data.reference_shares.none": 0.3},
            "config.data.reference_shares: together at most 1 expected",
        ),
        ("demo", {"eval.crops": 3}, "config.eval.crops: a multiple of 2 photographs"),
        ("demo", {"eval.patch": 16}, "config.eval.patch: at least 11 larger than two borders of 4 expected, got 16"),
        (
            "demo",
            {"data.warp_range": (8.0, 2.0)},
            "config.data.warp_range: 2 values, rising, each a number from 0 to 2048",
        ),
        ("demo", {"stage": "teacher"}, "config.model.name: one of correspondence expected, got 'rrsr'"),
        ("demo", {"model.name": "edsr"}, "config.model: edsr has no alignments, "),
    ],
)
def test_fields_that_do_not_go_together(name, changes, expected):
    config = get_config(name)
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError) as error:
        config_checks.check(config)
    assert any(line.startswith(expected) for line in str(error.value).splitlines())


def test_parts_that_are_missing():
    for part in ("weights", "data", "eval", "loss", "model"):
        config = get_config("demo")
        with config.unlocked():
            del config[part]
        with pytest.raises(InputError, match=rf"config\.{part}"):
            config_checks.check(config)
    with pytest.raises(InputError, match=r"config\.weights"):
        config_checks.check(ConfigDict())


def test_all_that_is_wrong_is_said_at_once():
    config = get_config("demo")
    config.update(seed=-1, ema_decay=1.5)
    with pytest.raises(InputError) as error:
        config_checks.check(config)
    assert str(error.value).splitlines() == [
        "config.ema_decay: a number from 0 to below 1 expected, got 1.5",
        "config.seed: a whole number from 0 to 4294967295 expected, got -1",
    ]


def test_nothing_is_built_or_written_before_the_check(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "build", None)
    for run in (train.train_and_evaluate, train.evaluate_only):
        with pytest.raises(InputError, match=r"config\.eval\.sheets: a whole number from 0"):
            run(tiny_config(eval__sheets=-1), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_rules_know_what_the_program_knows():
    """Names and numbers that stand here once more, because the check is done before JAX is imported."""
    known = {**models.MODELS, "correspondence": CorrespondenceNet, "ranker": Ranker}
    assert set(config_checks.MODELS) == set(known)
    for name, rules in config_checks.MODELS.items():
        defaults = {
            f.name: f.default for f in dataclasses.fields(known[name]) if f.name not in ("parent", "name", "axis_name")
        }
        assert set(rules) == set(defaults)
        assert all(rules[field].holds(default) for field, default in defaults.items())
    for name, rules in config_checks.DISCRIMINATORS.items():
        fields = {f.name for f in dataclasses.fields(DISCRIMINATORS[name])} - {"parent", "name", "axis_name"}
        assert set(rules) == fields
    assert set(config_checks.DISCRIMINATORS) == set(DISCRIMINATORS)
    assert set(config_checks.LAYERS) == set(encoders.layer_names())
    for field, names in {"pixel_loss": passes.PIXEL_LOSSES, "objective": adversarial.OBJECTIVES}.items():
        assert config_checks.rule_of(field, {}).expected == config_checks.one_of(*names).expected
    normalised = {name for name, model in models.MODELS.items() if read_contract(model()).takes_train}
    assert set(config_checks.BATCH_NORMALISED) == normalised
    rules = config_checks.MODELS["rrsr"]
    choices = {"pre_offsets": rrsr.PRE_OFFSETS, "remat": rrsr.REMAT, "dtype": rrsr.DTYPES, "match_dtype": rrsr.DTYPES}
    for field, names in {**choices, "deform_conv": ["", *deform_conv.IMPLEMENTATIONS]}.items():
        assert rules[field].expected == config_checks.one_of(*names).expected
    assert list(config_checks.LOSSES) == list(stages.STAGES)
    assert sorted(config_checks.WEIGHTS) == sorted(
        kind.setting for kind in weights.KINDS if kind.name not in metrics.NETWORKS
    )
    assert config_checks.SMALLEST_PATCH == datasets.SMALLEST
    assert config_checks.SSIM_WINDOW == metrics.SSIM_WINDOW
    assert len(datasets.EMBEDDED_TEST) == config_checks.EMBEDDED_PHOTOGRAPHS
