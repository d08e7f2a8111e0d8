"""Figures of what a model does inside, drawn from a checkpoint."""

import csv

import jax
import numpy as np
import pytest
from PIL import Image

from rrsr_jax.data.images import downscale
from rrsr_jax.evaluation import drawing
from rrsr_jax.evaluation.protocols import crop_to_multiple
from rrsr_jax.evaluation.protocols import test_sets as open_sets
from rrsr_jax.experiments import figures
from rrsr_jax.training import train
from rrsr_jax.workdir.checkpoints import Checkpoints
from rrsr_jax.workdir.state import eval_params
from tests.helpers import tiny_config, tiny_rrsr

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

BLOCKS = ["1x 1", "2x 1", "2x 2", "4x 1"]
EVAL = ["eval.sets=embedded", "eval.crops=2", "eval.patch=48"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run of a single step."""
    workdir = tmp_path_factory.mktemp("run")
    train.train_and_evaluate(
        tiny_config(steps=1, batch_size=1, eval__sets="", loss__rtrr=0.0, ema_decay=0.5), str(workdir)
    )
    return workdir


def test_what_is_drawn_is_what_the_model_does(run, tmp_path):
    figures.main([f"--workdir={run}", "--images=2", f"--out={tmp_path}", "--set", *EVAL])
    (test_set,) = open_sets(tiny_config().eval)
    names = [test_set[i]["name"] for i in range(2)]
    assert sorted(path.stem for path in (tmp_path / "alignments").iterdir()) == sorted(names)
    with (tmp_path / "routing.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["block"], row["image"]) for row in rows] == [(block, name) for block in BLOCKS for name in names]
    lr = downscale(crop_to_multiple(test_set[1]["hr"]))[None].astype(np.float32) / 255
    ref = test_set.reference_image("reference", 1, test_set[1])[None].astype(np.float32) / 255
    params = eval_params(Checkpoints(run).read_state())
    observe = jax.jit(lambda *a: tiny_rrsr().apply(*a, mutable=["intermediates"]))
    _, found = observe({"params": params}, lr, ref)
    expected = found["intermediates"]["fas_2x_1"]["select"]["routing"][0][0]
    drawn = next(row for row in rows if row["block"] == "2x 2" and row["image"] == names[1])
    np.testing.assert_allclose([float(drawn["alpha_1"]), float(drawn["alpha_2"])], expected, rtol=1e-5)


def test_earlier_figures_are_kept(tmp_path):
    path = tmp_path / "alignments" / "a.png"
    for value in (1, 1, 2):
        figures._save(Image.new("RGB", (5, 4), (value, 0, 0)), path)
    assert sorted(path.name for path in path.parent.iterdir()) == ["a.1.png", "a.png"]


def test_alignments_are_told_apart():
    def block(value, **more):
        return {"aligned": (np.stack([np.full((1, 4, 6), value), np.zeros((1, 4, 6))], -1),), **more}

    class Model:
        def apply(self, variables, lr, ref, mutable):
            select = {"routing": (np.array([[0.2, 0.8]]),)}
            blocks = {"fas_2x_1": block(4.0, select=select), "fas_1x_0": block(2.0), "fas_2x_0": block(6.0), "flow": 0}
            return lr, {mutable[0]: blocks}

    _, aligned, routing = figures._observe(Model(), {}, None, None)
    means = {scale: {number: a.mean() for number, a in maps.items()} for scale, maps in aligned.items()}
    assert means == {"1x": {0: 1.0}, "2x": {0: 3.0, 1: 2.0}}
    assert {block: a.tolist() for block, a in routing.items()} == {"2x 2": [[0.2, 0.8]]}


def test_one_range_of_colours_for_a_scale():
    dark, bright = np.zeros((10, 20)), np.ones((10, 20))
    sheet = np.asarray(
        figures.alignment_sheet({"result": np.zeros((20, 40, 3), np.uint8)}, {"4x": {1: bright, 0: dark}})
    )
    row = sheet[-drawing.GAP - 40]  # through the middle of the last tiles
    first, second = (row[drawing.GAP + i * (drawing.TILE + drawing.GAP) + drawing.TILE // 2] for i in (0, 1))
    np.testing.assert_array_equal(first, drawing.colours(np.zeros((1, 1)))[0, 0])
    np.testing.assert_array_equal(second, drawing.colours(np.ones((1, 1)))[0, 0])
    assert first.tolist() != second.tolist()


def test_routing_sheet_has_a_cell_for_every_weight():
    routing = {"1x 1": np.array([[0.0, 1.0, 0.5]]), "2x 1": np.array([[0.2, 0.7]])}
    shown = {tuple(c) for c in np.asarray(figures.routing_sheet(["image"], routing)).reshape(-1, 3).tolist()}
    for weights in routing.values():
        assert {tuple(c) for c in drawing.colours(weights)[0].tolist()} <= shown


def test_images_of_ones_own(run, tmp_path):
    rng = np.random.default_rng(0)
    for name, size in {"small": (9, 12), "sharp": (40, 32)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    figures.main([f"--workdir={run}", f"--lr={tmp_path}/small.png", f"--ref={tmp_path}/sharp.png"])
    with Image.open(run / "figures" / "alignments" / "small.png") as sheet:
        assert sheet.width == 3 * (drawing.TILE + drawing.GAP) + drawing.GAP


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr=small.png"], "--lr and --ref expected together"),
        (["--lr=none.png", "--ref=none.png"], "none.png: cannot be read"),
        (["--images=0"], "--images: at least 1 expected"),
        ([], "config.eval.sets is empty"),
        (["--set", *EVAL, "eval.references=bicubic"], "got bicubic alone"),
        (["--set", "eval.nothing=1"], "none of the configs has a field eval.nothing"),
    ],
)
def test_what_cannot_be_drawn_says_why(run, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        figures.main([f"--workdir={run}", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_runs_that_cannot_be_drawn(tmp_path, capsys):
    with pytest.raises(SystemExit):
        figures.main([f"--workdir={tmp_path}/nothing"])
    assert "nothing" in capsys.readouterr().err
    config = tiny_config(steps=1, batch_size=1, eval__sets="", loss__rtrr=0.0)
    with config.unlocked():
        config.model = {"name": "srcnn"}
        config.weights, config.learning_rates = {}, {"default": 1e-3}
    train.train_and_evaluate(config, str(tmp_path / "srcnn"))
    with pytest.raises(SystemExit):
        figures.main([f"--workdir={tmp_path}/srcnn", "--set", *EVAL])
    assert "srcnn has no alignments to draw" in capsys.readouterr().err
