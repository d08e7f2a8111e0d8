"""Every config, each row included: it builds, and runs through training and evaluation for a step, shrunk, on embedded
photographs.
"""

import ast
import dataclasses
import functools
import os
import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from rrsr_jax import main, models
from rrsr_jax.experiments import bench
from rrsr_jax.training import stages, train
from rrsr_jax.training.step import make_decay, make_mesh
from tests.helpers import CONFIG_FILES, CONFIGS, ROOT, get_config, lines, tiny_rrsr

SMALL = {
    name: getattr(tiny_rrsr(), name) for name in ("context_blocks", "groups", "vgg_channels", "correspondence_channels")
}
SMALL |= {"channels": SMALL["correspondence_channels"], "encoder_blocks": 1, "decoder_blocks": 1, "reduction": 4}
SMALL |= {"growth": 4, "chunk": 9, "ref_encoder_blocks": 1, "flow_channels": (4,) * 6, "flow_up_channels": (4,) * 6}


def smaller(name, value):
    """A field of a model, as small as it may be without leaving a part of the model out."""
    if name in ("alignments", "experts", "features", "blocks"):
        most = {"alignments": 1, "experts": 2, "features": 8, "blocks": 1}[name]
        return tuple(min(v, most) for v in value) if isinstance(value, tuple) else min(value, most)
    return SMALL.get(name, value)


RECIPROCAL = {config.model.name for config in map(get_config, CONFIGS) if config.loss.get("rtrr")}


def shrunk(name):
    config = get_config(name)
    config.model = {k: smaller(k, v) for k, v in config.model.items() if k != "match_tile"}
    patch = 80 if config.stage in ("teacher", "student") else 32
    config.data.update(name="embedded", patch=patch, warp_range=(1.0, 4.0), threads=1)
    config.eval.update(sets="embedded", crops=2, patch=48, sheets=0, shown=2)
    if config.stage == "gan":  # with VGG-19 it would be neither small nor without a download
        config.loss.perceptual = 0.0
        config.pixel_steps = 0
        config.discriminator.update(features=(4, 4), head=4)
    # Models are evaluated elsewhere.
    config.eval.update(
        references="lr_itself" if config.eval.references == "lr_itself" else "bicubic",
        border=0,
        published_padding=False,
    )
    config.update(batch_size=1, steps=1, init_from="", init_gain=1.0, schedule="steps", decay_steps=())
    config.update(log_every=1, image_every=10, checkpoint_every=10)
    config.data.view.update(shift=0.15, corners=0.05, whole_pixels=False, rotation=10.0, zoom=(0.7, 1.4))
    config.data.degradation.share = float(config.data.degradation.share > 0)
    config.update(ema_decay=0.0)
    config.data.prefetch = 1
    # Reciprocal training has the plain one as a part. One weight or rate is like another.
    if config.model.name in RECIPROCAL:
        config.loss.rtrr = 1.0
    config.loss.update({term: float(weight > 0) for term, weight in config.loss.items()})
    config.learning_rates.update({part: 1e-4 * (rate > 0) for part, rate in config.learning_rates.items()})
    if "vgg" in config.learning_rates:
        config.learning_rates.vgg = 0.0
    return config


def elsewhere(name):
    """`demo` and `photos` run in test_train, all losses of Table 1's methods in test_recipes, the Ranker in test_ranker."""
    others = name.startswith("table1:") and get_config(name).stage != "rec"
    return others or name in ("demo", "photos") or name.startswith("rank_chain:")  # rows of table1 in small


# Of configs that are alike when shrunk, one.
DISTINCT = {shrunk(n).to_json(): n for n in CONFIGS if not elsewhere(n)}.values()


@pytest.mark.parametrize("name", CONFIGS)
def test_builds_as_it_is(name):
    config = get_config(name)
    config.eval.sets = ""
    stages.build(config, make_mesh())
    make_decay(config)
    text, (stem, *row) = CONFIG_FILES[name.partition(":")[0]].__doc__, name.split(":")
    assert f"--config=configs/{stem}.py" in text or f"--configs configs/{stem}.py" in text
    assert "published result" in text.lower() or "Expected" in text
    assert all(re.search(rf"^\| ([^|]*, )?{re.escape(r)}(,[^|]*)? \|", text, re.MULTILINE) for r in row)


@pytest.mark.parametrize("name", DISTINCT)
def test_runs_for_a_step(name, tmp_path):
    config = shrunk(name)
    if config.stage == "student":
        teacher = shrunk("matcher:teacher")
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


@pytest.mark.parametrize(
    ("plain", "reciprocal"),
    [
        ("c2_matching", "table2:c2_rtrr"),
        ("masa", "table2:masa_rtrr"),
        ("ttsr", "table2:ttsr_rtrr"),
        ("table1:crossnet", "table1:crossnet_rtrr"),
        ("table1:srntt_rec", "table1:srntt_rtrr"),
        ("table1:ssen_rec", "table1:ssen_rtrr"),
        ("table1:dcsr_rec", "table1:dcsr_rtrr"),
    ],
)
def test_reciprocal_configs_differ_in_the_loss_alone(plain, reciprocal):
    plain, reciprocal = get_config(plain), get_config(reciprocal)
    assert (plain.loss.rtrr, reciprocal.loss.rtrr) == (0, 0.4)
    reciprocal.loss.rtrr = 0.0
    assert plain.to_json() == reciprocal.to_json()


@pytest.mark.parametrize(
    ("stem", "field", "values"),
    [("fig5b", "loss.rtrr", [0, 0.2, 0.4, 0.6, 0.8, 1]), ("experts", "model.experts", [8, 16, 32])],
)
def test_a_figures_configs_differ_from_the_papers_run_in_its_one_field(stem, field, values):
    parent, found = get_config("cufed5"), []
    for row in CONFIG_FILES[stem].ROWS:
        config = get_config(f"{stem}:{row}")
        part, key = field.split(".")
        found.append(config[part][key])
        assert row == str(found[-1])
        config[part][key] = parent[part][key]
        assert config.to_json() == parent.to_json()
    assert found == values


@pytest.mark.parametrize(("stem", "progressive", "experts"), [("table2", (1, 3, 3), 16), ("ablations", (1, 2, 2), 4)])
def test_left_half_of_table_2_adds_one_thing_at_a_time(stem, progressive, experts):
    names = ("c2", "c2_pfa", "c2_pfa_ras", "c2_pfa_ras_rtrr")
    configs = [get_config(f"{stem}:{name}") for name in names]
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
            "discriminator.name": "rrsr", "discriminator.features": (32, 64, 128, 256, 512), "discriminator.head": 1024,
            "updates": ("discriminator", "generator"), "objective": "wgan_gp", "perceptual.criterion": "frobenius",
            "perceptual.layer_weights": {"relu5_1": 1.0}, "perceptual.normalise": False,
        },
        "matcher:teacher": {
            "steps": 5_000, "batch_size": 8, "learning_rates.default": 1e-3,
            "decay_steps": (), "data.warp_range": (0.0, 10.0), "data.patch": 160,
            "loss.triplet": 1.0, "loss.info_nce": 0.0, "loss.distillation": 0.0, "model.channels": (64, 128, 256),
        },
        "matcher:student": {
            "steps": 75_000, "batch_size": 8, "learning_rates.default": 1e-3,
            "decay_steps": (72_545,), "decay_factor": 0.1, "loss.triplet": 1.0, "loss.info_nce": 0.0, "loss.distillation": 15.0,
        },
        "masa": {
            "steps": 160 * 1_319, "decay_steps": (500 * 1_319,), "schedule": "cosine", "batch_size": 9,
            "learning_rates.default": 1e-4, "model.blocks": (12, 8, 4), "eval.border": 0, "loss.rec": 1.0,
        },
        "ttsr": {
            "steps": 200 * 1_319, "decay_steps": (), "batch_size": 9, "learning_rates.default": 1e-4,
            "learning_rates.vgg": 1e-5, "model.blocks": (16, 16, 8, 4), "eval.border": 0, "loss.rec": 1.0,
        },
        "table1:nlsn": {
            "steps": 1_000_000, "decay_steps": (200_000, 400_000, 600_000, 800_000), "decay_factor": 0.5, "batch_size": 16,
            "learning_rates.default": 1e-4, "adam_betas": (0.9, 0.999), "data.patch": 160, "model.chunk": 144, "model.rounds": 4,
        },
        "table1:srgan_rec": {
            "steps": 1_000_000, "decay_steps": (), "batch_size": 16, "learning_rates.default": 1e-4,
            "adam_betas": (0.9, 0.999), "data.patch": 96, "model.blocks": 16, "pixel_loss": "mse",
        },
        "table1:enet_rec": {
            "decay_steps": (), "learning_rates.default": 1e-4, "data.patch": 128, "model.blocks": 10, "model.half_pixel": False,
            "pixel_loss": "mse",
        },
        "table1:esrgan_rec": {
            "steps": 1_000_000, "decay_steps": (250_000, 500_000, 750_000, 1_000_000), "schedule": "cosine_restarts",
            "batch_size": 16, "learning_rates.default": 2e-4, "adam_betas": (0.9, 0.99), "data.patch": 128, "model.blocks": 23,
            "decay_factor": 5e-4,  # down to 1e-7
        },
        "table1:ranksrgan_rec": {
            "steps": 1_000_000, "batch_size": 16, "learning_rates.default": 2e-4, "adam_betas": (0.9, 0.99), "data.patch": 128,
        },
        "table1:crossnet": {
            "model.flow_channels": (64, 128, 256, 512, 512, 1024), "learning_rates.default": 1e-4, "batch_size": 9,
            "steps": 255_000, "data.patch": 160, "pixel_loss": "charbonnier",
        },
        "table1:srntt_rec": {
            "loss": {"rec": 1.0, "rtrr": 0.0, "upscale": 1.0},
            "model.context_blocks": 16, "model.blocks": (16, 8, 4), "learning_rates.default": 1e-4, "learning_rates.vgg": 0.0,
            "batch_size": 9, "steps": 255_000,
        },
        "table1:ssen_rec": {
            "model.encoder_blocks": 5, "model.blocks": 16, "model.alignments": 3, "batch_size": 32, "steps": 100_000,
            "schedule": "cosine", "decay_steps": (100_000,), "learning_rates.default": 1e-4, "adam_betas": (0.9, 0.999),
            "pixel_loss": "charbonnier",
        },
        "table1:dcsr_rec": {
            "model.scale": 4, "model.blocks": (8, 4, 4), "learning_rates.default": 1e-4, "learning_rates.vgg": 1e-4,
            "batch_size": 9, "steps": 255_000, "data.patch": 160, "pixel_loss": "l1",
        },
        "table1:srgan": {
            "loss": {"rec": 0.0, "rtrr": 0.0, "perceptual": 0.006, "adversarial": 1e-3}, "objective": "standard",
            "updates": ("generator", "discriminator"), "perceptual.layer_weights": {"relu5_4": 1.0}, "pixel_steps": 0,
            "perceptual.criterion": "mse", "perceptual.normalise": False, "discriminator.name": "srgan",
            "discriminator.features": (64, 128, 256, 512), "discriminator.hidden": 1024, "steps": 200_000,
            "decay_steps": (100_000,), "decay_factor": 0.1, "schedule": "steps", "batch_size": 16, "data.patch": 96,
            "learning_rates": {"default": 1e-4, "discriminator": 1e-4}, "init_from": "srgan_rec",
        },
        "table1:enet": {
            "loss": {"rec": 0.0, "rtrr": 0.0, "perceptual": 1.0, "texture": 1.0, "adversarial": 2.0}, "objective": "standard",
            "updates": ("generator", "discriminator"), "perceptual.layer_weights": {"pool2": 0.2, "pool5": 0.02},
            "perceptual.criterion": "mse", "perceptual.normalise": True, "discriminator.name": "enet",
            "texture.layer_weights": {"relu1_1": 3e-7, "relu2_1": 1e-6, "relu3_1": 1e-6}, "data.patch": 128,
            "discriminator.features": (32, 64, 128, 256, 512), "discriminator.hidden": 1024,
        },
        "table1:esrgan": {
            "loss": {"rec": 1e-2, "rtrr": 0.0, "perceptual": 1.0, "adversarial": 5e-3}, "objective": "relativistic",
            "updates": ("generator", "discriminator"), "perceptual.layer_weights": {"conv5_4": 1.0}, "pixel_loss": "l1",
            "perceptual.criterion": "l1", "discriminator.name": "vgg_style", "discriminator.initial": "he",
            "discriminator.hidden": 100, "steps": 500_000, "decay_steps": (50_000, 100_000, 200_000, 300_000),
            "decay_factor": 0.5, "schedule": "steps", "batch_size": 16, "data.patch": 128, "adam_betas": (0.9, 0.999),
            "learning_rates": {"default": 1e-4, "discriminator": 1e-4}, "init_from": "esrgan_rec",
        },
        "table1:ranksrgan": {
            "loss": {"rec": 0.0, "rtrr": 0.0, "perceptual": 1.0, "ranking": 0.03, "adversarial": 5e-3},
            "weights.ranksrgan_ranker": "ranker",
            "objective": "standard", "updates": ("generator", "discriminator"), "batch_size": 8, "adam_betas": (0.9, 0.99),
            "perceptual.layer_weights": {"conv5_4": 1.0}, "perceptual.criterion": "l1", "discriminator.name": "vgg_style",
            "discriminator.initial": "default", "ranker.features": (64, 128, 256, 512, 512), "ranker.hidden": 100,
            "steps": 500_000, "decay_steps": (50_000, 100_000, 200_000, 300_000), "decay_factor": 0.5, "schedule": "steps",
            "learning_rates": {"default": 1e-4, "discriminator": 1e-4}, "init_from": "ranksrgan_rec",
        },
        "table1:ranker": {
            "learning_rates.default": 1e-4, "weight_decay": 1e-4, "decay_steps": (100_000, 200_000), "decay_factor": 0.5,
            "steps": 400_000, "batch_size": 16, "adam_betas": (0.9, 0.999), "model.features": (64, 128, 256, 512, 512),
            "rank_set": {
                "srresnet": "srgan_rec", "srgan": "srgan", "esrgan": "esrgan", "images": "cufed", "stride": 160, "block": 32,
            },
        },
        "table1:srntt": {
            "loss": {
                "rec": 2.0, "rtrr": 0.0, "upscale": 2.0, "perceptual": 1e-4, "texture_transfer": 1e-4,
                "back_projection": 0.0, "adversarial": 1e-6,
            },
            "objective": "wgan_gp_per_pixel", "penalty": 10.0, "pixel_steps": 5 * 1_319, "discriminator.name": "srntt",
            "updates": ("discriminator", "discriminator", "generator", "discriminator"), "perceptual.criterion": "mse",
            "perceptual.layer_weights": {"relu5_1": 1.0}, "discriminator.features": (32, 64, 128, 256, 512),
        },
        "table1:ttsr_gan": {
            "loss": {"rec": 2.0, "rtrr": 0.0, "perceptual": 1e-2, "transferal": 1e-2, "adversarial": 1e-3},
            "objective": "wgan_gp", "penalty": 10.0, "updates": ("discriminator", "discriminator", "generator"),
            "perceptual.layer_weights": {"relu5_1": 1.0}, "perceptual.criterion": "mse", "pixel_steps": 2 * 1_319,
            "learning_rates": {"default": 1e-4, "vgg": 1e-5, "discriminator": 1e-4}, "batch_size": 9,
        },
        "table1:masa_gan": {
            "loss": {"rec": 1.0, "rtrr": 0.0, "perceptual": 1.0, "adversarial": 5e-3}, "pixel_steps": 160 * 1_319,
            "steps": 210 * 1_319, "schedule": "cosine", "decay_steps": (500 * 1_319,), "batch_size": 9,
        },
        "table1:dcsr": {
            "loss": {"rec": 1.0, "rtrr": 0.0, "contextual_ref": 0.05, "contextual_hr": 0.01, "adversarial": 0.0},
            "pixel_loss": "blurred_l1", "updates": ("generator",), "pixel_steps": 0,
        },
    }.items(),
)  # fmt: skip
def test_published_constants(name, expected):
    """Of the RRSR paper and its supplement, C2-Matching, MASA, TTSR, and the publications of Table 1's other models."""
    config = get_config(name)
    found = {field: functools.reduce(lambda part, key: part[key], field.split("."), config) for field in expected}
    found = {field: value.to_dict() if isinstance(value, ConfigDict) else value for field, value in found.items()}
    assert found == expected


@pytest.mark.parametrize(
    "name",
    [n for n in CONFIGS if n in (*models.MODELS, "cufed5") or (n.startswith("table1:") and n != "table1:ranker")],
)
def test_defaults_of_a_model_are_its_published_fields(name):
    """Costs and benchmarks have no config, and take them."""
    fields = get_config(name).model.to_dict()
    model = models.MODELS[fields.pop("name")]
    defaults = {field.name: field.default for field in dataclasses.fields(model)}
    assert fields == {field: defaults[field] for field in fields}
    frozen = [part for part, rate in get_config(name).learning_rates.items() if rate == 0]
    assert set(getattr(model, "frozen", ())) == set(frozen)
    if get_config(name).stage == "rec":  # losses have a VGG-19, too
        assert set(getattr(model, "pretrained", ())) == {"vgg", "correspondence"} & set(get_config(name).weights)


def test_the_benchmark_measures_the_published_run():
    published = get_config("cufed5").to_dict()
    for field, value in bench.published_config().to_dict().items():
        if isinstance(value, dict):
            assert value == {key: published[field][key] for key in value}, field
        else:
            assert value == published[field], field


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "table2.py",
            r"one of the rows c2, c2_pfa, .*, ttsr_rtrr expected, got none; write --config=.*/table2\.py:ROW",
        ),
        ("table2.py:c3", "one of the rows c2, c2_pfa, .*, ttsr_rtrr expected, got 'c3'"),
        ("fig5b.py:0.5", r"one of the rows 0\.0, 0\.2, 0\.4, 0\.6, 0\.8, 1\.0 expected, got '0\.5'"),
        ("demo.py:c2", r"demo\.py has no rows; write --config=.*demo\.py"),
        ("table3.py", r"no file .*table3\.py"),
        ("../setup.cfg", r"setup\.cfg: invalid syntax"),
        ("../tests/__init__.py", "has no function get_config"),
    ],
)
def test_files_and_rows_that_do_not_exist(config, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main"])
    with pytest.raises(SystemExit) as end:
        main.parse(["main", f"--config={ROOT / 'configs' / config}", "--workdir=nowhere"])
    assert end.value.code == 2
    assert re.search(rf"^error: .*{message}", capsys.readouterr().err)


@pytest.mark.parametrize("config", ["photos.py", "table2.py:masa_rtrr"])
def test_configs_of_any_folder_work_from_any_folder(config, tmp_path):
    """Where the program is installed, without `configs`, and the config file lies elsewhere."""
    (tmp_path / "site").mkdir()
    for package in ("rrsr_jax", "kernels"):
        (tmp_path / "site" / package).symlink_to(ROOT / package)
    call = [sys.executable, "-m", "rrsr_jax.main", f"--config={ROOT / 'configs' / config}", "--workdir=run"]
    end = subprocess.run(
        [*call, "--config.steps=0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (end.returncode, end.stderr.splitlines()[-1]) == (
        2,
        "error: config.steps: a whole number from 1 to 2147483647 expected, got 0",
    )


def test_the_program_imports_no_configs():
    for path in (path for package in ("rrsr_jax", "kernels") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"configs", "tests"}, path
