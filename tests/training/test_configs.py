"""Every file in `configs/`: it builds, and runs through training and evaluation for a step, shrunk, on embedded photographs."""

import functools
import importlib

import pytest

from rrsr_jax.training import stages, train
from rrsr_jax.training.step import make_decay, make_mesh
from tests.helpers import ROOT, lines, tiny_rrsr

PATHS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py"))
ALL = [str(path.with_suffix("")).replace("/", ".") for path in PATHS]
SMALL = {
    name: getattr(tiny_rrsr(), name) for name in ("context_blocks", "groups", "vgg_channels", "correspondence_channels")
}
SMALL |= {"channels": SMALL["correspondence_channels"], "encoder_blocks": 1, "decoder_blocks": 1, "reduction": 4}


def get_config(name):
    return importlib.import_module(name).get_config()


def smaller(name, value):
    """A field of a model, as small as it may be without leaving a part of the model out."""
    if name in ("alignments", "experts", "features", "blocks"):
        most = {"alignments": 2, "experts": 2, "features": 8, "blocks": 1}[name]
        return tuple(min(v, most) for v in value) if isinstance(value, tuple) else min(value, most)
    return SMALL.get(name, value)


def shrunk(name):
    config = get_config(name)
    config.model.update({k: smaller(k, v) for k, v in config.model.items()})
    patch = 80 if config.stage in ("teacher", "student") else 32
    config.data.update(name="embedded", patch=patch, warp_range=(1.0, 4.0), threads=1)
    config.eval.update(sets="embedded", crops=2, patch=48, sheets=0, shown=2)
    if config.stage == "gan":  # with VGG-19 it would be neither small nor without a download
        config.loss.perceptual = 0.0
        config.pixel_steps = 0
        config.discriminator.update(features=(4, 4), head=4)
    config.eval.references = config.eval.references or "bicubic"  # models are evaluated elsewhere
    config.update(batch_size=1, steps=1, init_from="")
    config.loss.update({term: float(weight > 0) for term, weight in config.loss.items()})  # any weight is like another
    return config


# Of configs that are alike when shrunk, one; `demo` and `photos` run in test_train.
DISTINCT = {shrunk(n).to_json(): n for n in ALL if n not in ("configs.demo", "configs.photos")}.values()


@pytest.mark.parametrize("name", ALL)
def test_builds_as_it_is(name):
    config = get_config(name)
    config.eval.sets = ""
    stages.build(config, make_mesh())
    make_decay(config)
    module = importlib.import_module(name)
    assert "Published result" in module.__doc__ or name in ("configs.demo", "configs.photos")


@pytest.mark.parametrize("name", DISTINCT)
def test_runs_for_a_step(name, tmp_path):
    config = shrunk(name)
    if config.stage == "student":
        teacher = shrunk("configs.matcher_teacher")
        train.train_and_evaluate(teacher, str(tmp_path / "teacher"))
        config.init_from = str(tmp_path / "teacher")
    results = train.train_and_evaluate(config, str(tmp_path / "run"))
    references = ["hr_hr", "lr_hr", "untrained_lr_hr", "random_lr_hr"]
    if config.stage in ("rec", "gan"):
        references = list(dict.fromkeys(["bicubic", config.eval.references]))
    assert list(results["embedded"]["references"]) == references
    (record,) = lines(tmp_path / "run")
    for term, weight in config.loss.items():
        assert (f"train/{term}" in record) == bool(weight), term


@pytest.mark.parametrize("name", ["c2_matching", "masa", "ttsr"])
def test_reciprocal_configs_differ_in_the_loss_alone(name):
    plain, reciprocal = (importlib.import_module(f"configs.{n}").get_config() for n in (name, f"{name}_rtrr"))
    assert (plain.loss.rtrr, reciprocal.loss.rtrr) == (0, 0.4)
    reciprocal.loss.rtrr = 0.0
    assert plain.to_json() == reciprocal.to_json()


@pytest.mark.parametrize(
    ("folder", "field", "values"),
    [("fig5b", "loss.rtrr", [0, 0.2, 0.4, 0.6, 0.8, 1]), ("experts", "model.experts", [16, 32, 8])],
)
def test_a_figures_configs_differ_from_the_papers_run_in_its_one_field(folder, field, values):
    parent, found = get_config("configs.cufed5"), []
    for name in (name for name in ALL if name.startswith(f"configs.{folder}.")):
        config = get_config(name)
        part, key = field.split(".")
        found.append(config[part][key])
        assert name.endswith(str(found[-1]).replace(".", "_"))
        config[part][key] = parent[part][key]
        assert config.to_json() == parent.to_json()
    assert found == values


@pytest.mark.parametrize(("folder", "progressive", "experts"), [("table2", (1, 3, 3), 16), ("ablations", (1, 2, 2), 4)])
def test_left_half_of_table_2_adds_one_thing_at_a_time(folder, progressive, experts):
    names = ("c2", "c2_pfa", "c2_pfa_ras", "c2_pfa_ras_rtrr")
    configs = [get_config(f"configs.{folder}.{name}") for name in names]
    assert [c.model.alignments for c in configs] == [(1, 1, 1), progressive, progressive, progressive]
    assert [c.model.experts for c in configs] == [0, 0, experts, experts]
    assert [c.loss.rtrr for c in configs] == [0, 0, 0, 0.4]
    for config in configs:
        config.model.update(name="rrsr", alignments=progressive, blocks=configs[-1].model.blocks, experts=experts)
        config.loss.rtrr = 0.4
        config.weights = configs[-1].weights
    assert len({config.to_json() for config in configs}) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "cufed5_gan": {
            "pixel_steps": 10_000, "penalty": 10.0, "steps": 255_000, "learning_rates.discriminator": 1e-4,
            "loss.rec": 1.0, "loss.rtrr": 0.4, "loss.perceptual": 1e-4, "loss.adversarial": 1e-6,
            "discriminator.features": (32, 64, 128, 256, 512), "discriminator.head": 1024,
        },
        "matcher_teacher": {
            "steps": 5_000, "batch_size": 8, "learning_rates.default": 1e-3, "learning_rates.teacher": 0.0,
            "decay_steps": (), "data.warp_range": (0.0, 10.0), "data.patch": 160,
            "loss.triplet": 1.0, "loss.distillation": 0.0, "model.channels": (64, 128, 256),
        },
        "matcher_student": {
            "steps": 75_000, "batch_size": 8, "learning_rates.default": 1e-3, "learning_rates.teacher": 0.0,
            "decay_steps": (72_545,), "decay_factor": 0.1, "loss.triplet": 1.0, "loss.distillation": 15.0,
        },
        "masa": {
            "steps": 160 * 1_319, "decay_steps": (500 * 1_319,), "schedule": "cosine", "batch_size": 9,
            "learning_rates.default": 1e-4, "model.blocks": (12, 8, 4), "eval.border": 0, "loss.rec": 1.0,
        },
        "ttsr": {
            "steps": 200 * 1_319, "decay_steps": (), "batch_size": 9, "learning_rates.default": 1e-4,
            "learning_rates.vgg": 1e-5, "model.blocks": (16, 16, 8, 4), "eval.border": 0, "loss.rec": 1.0,
        },
    }.items(),
)  # fmt: skip
def test_published_constants(name, expected):
    """Of the RRSR paper and its supplement, C2-Matching, MASA and TTSR."""
    config = get_config(f"configs.{name}")
    found = {field: functools.reduce(lambda part, key: part[key], field.split("."), config) for field in expected}
    assert found == expected
