"""The command that runs a list of configs: what it runs, what it repeats, how it stops, what it prints."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from ml_collections import ConfigDict

from rrsr_jax import config_files
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import published
from rrsr_jax.experiments import comparison, runs, table
from tests.helpers import CONFIG_FILES, CONFIGS, ROOT, lines

# ml_collections reads config files so; the message is Python's.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
SMALL = """
from configs import {parent}

def get_config():
    c = {parent}.get_config()
    c.model.update({model})
    c.data.update(name="embedded", patch=32, warp_range=(1.0, 4.0), threads=1)
    c.eval.update(sets="embedded", crops=2, patch=48, shown=0)
    c.update(batch_size=1, steps=40, log_every=1, decay_steps=(20,))
    return c
"""


@pytest.fixture
def configs(tmp_path):
    """Two config files."""
    for name, parent, model in (("first", "srcnn", "features=(6, 4)"), ("second", "edsr", "features=6, blocks=1")):
        (tmp_path / f"{name}.py").write_text(SMALL.format(parent=parent, model=model))
    return str(tmp_path / "*.py")


def start(configs, workdir, *options):
    call = [
        sys.executable,
        "-m",
        "rrsr_jax.experiments.table",
        f"--configs={configs}",
        f"--workdir={workdir}",
        *options,
    ]
    return subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def fake_execute(calls, status=lambda run: 0):
    """In place of a run: writes what a finished one leaves."""

    def execute(run, stop, lock):
        calls.append((run.name, run.config.seed, run.config.steps))
        if status(run):
            return status(run)
        run.workdir.mkdir(parents=True)
        scores = {"psnr_y": 20.0 + run.config.seed, "ssim_y": 0.5, "gmsd_y": 0.1}
        result = {"references": {"bicubic": scores, "lr_itself": scores}, "failed": {}, "border": 4}
        (run.workdir / "results.json").write_text(json.dumps({"step": run.config.steps, "sets": {"embedded": result}}))
        (run.workdir / "config.json").write_text(run.config.to_json())
        (run.workdir / "metrics.jsonl").write_text('{"step": 40, "train/loss": 1, "seconds_per_step": 2.0}\n')
        return 0

    return execute


@pytest.mark.timeout(900)
def test_interrupted_lists_go_on_where_they_stopped(configs, tmp_path):
    workdir, steps = tmp_path / "runs", ("--set", "steps=1000")

    def wait_for(count, process):
        while len(lines(workdir / "first/seed_0")) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    process = start(configs, workdir, *steps)
    wait_for(5, process)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    stopped = lines(workdir / "first/seed_0")[-1]["step"]
    assert (code, out.strip()) == (0, "")
    assert "run 1 of 2, first seed 0, 0:00:00 elapsed" in err
    assert f"stopped and saved at step {stopped}" in err
    assert "stopped; the same command goes on from there" in err
    assert stopped < 1000
    assert not (workdir / "second").exists()

    process = start(configs, workdir, *steps)
    wait_for(stopped + 5, process)
    process.kill()  # the run goes on alone
    process.wait()
    with pytest.raises(InputError, match=r"--workdir=.* is in use by process \d+ on .* since 20.*; wait until it ends"):
        table.run_list([configs], workdir, steps[1:], 1, None)
    finish(process)  # once nothing holds its output open any more

    code, out, err = finish(start(configs, workdir, *steps))
    assert code == 0, err
    assert "run 1 of 2" not in err
    assert "run 2 of 2, second seed 0" in err
    for name in ("first", "second"):
        assert [line["step"] for line in lines(workdir / name / "seed_0")] == list(range(1, 1001))
        assert re.search(
            rf"\| {name} \| lr itself \| 4 \| 1 \| 1000 \| \d+\.\d \| \d+\.\d\d \| 0\.\d{{4}} \| 0\.\d{{4}} \|", out
        )
    written = json.loads((workdir / "table.json").read_text())
    assert written["second"]["seeds"]["0"]["sets"]["embedded"]["images"] == 2

    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json*")}
    code, again, err = finish(start(configs, workdir, *steps))
    assert (code, again) == (0, out)
    assert "run 1" not in err
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json*")}


@pytest.mark.timeout(900)
def test_the_same_minutes_for_all(configs, tmp_path):
    workdir = tmp_path / "runs"
    code, out, err = finish(start(configs, workdir, "--minutes=0.02"))
    assert code == 0, err
    known = json.loads((workdir / "seconds_per_step.json").read_text())
    for name in ("first", "second"):
        config = json.loads((workdir / name / "seed_0" / "config.json").read_text())
        assert config["steps"] == round(1.2 / known[name]["seconds"])
        assert config["decay_steps"] == [round(config["steps"] / 2)]
        assert f"| {name} | lr itself | 4 | 1 | {config['steps']} |" in out
    assert not (workdir / ".timing").exists()


def test_every_seed_of_every_config_once(configs, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(runs, "execute", fake_execute(calls))
    arguments = [f"--configs={configs}", f"--workdir={tmp_path / 'runs'}", "--set", "steps=7", "seed=3"]
    table.main([*arguments, "--seeds=2"])
    assert calls == [("first", 3, 7), ("first", 4, 7), ("second", 3, 7), ("second", 4, 7)]
    assert (
        "| first | lr itself | 4 | 2 | 7 | 0.2 | 23.50 ± 0.71 | 0.5000 ± 0.0000 | 0.1000 ± 0.0000 |  |  |"
        in capsys.readouterr().out
    )
    table.main([*arguments, "--seeds=3"])
    assert calls[4:] == [("first", 5, 7), ("second", 5, 7)]


def test_results_of_another_evaluation_are_not_taken_for_these(configs, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(runs, "execute", fake_execute(calls))
    (run, _) = runs.plan([configs], tmp_path / "runs", ["eval.border=4"], 1)
    assert runs.finished_results(run) is None
    runs.execute(run, bool, 0)
    assert runs.finished_results(run)["step"] == 40
    for changes in (["eval.border=0"], ["steps=50"], ["eval.sets=embedded,photos"]):
        (other, _) = runs.plan([configs], tmp_path / "runs", changes, 1)
        assert runs.finished_results(other) is None
    path = run.workdir / "results.json"
    path.write_text(path.read_text().replace('"failed": {}', '"failed": {"a, bicubic": "no"}'))
    assert runs.finished_results(run) is None


def test_a_run_that_fails_costs_the_others_nothing(configs, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(runs, "execute", fake_execute(calls, lambda run: 2 if run.name == "first" else 0))
    with pytest.raises(SystemExit) as end:
        table.main([f"--configs={configs}", f"--workdir={tmp_path / 'runs'}"])
    assert end.value.code == 1
    assert [name for name, *_ in calls] == ["first", "second"]
    captured = capsys.readouterr()
    assert "first seed 0 failed with exit status 2" in captured.err
    assert re.search(r"error: 1 run\(s\) failed, see above: .*first/seed_0", captured.err)
    assert "| first |  |  | 0 |  |  |  |  |  |  |  |" in captured.out
    assert "| second | lr itself | 4 | 1 | 40 |" in captured.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--configs=nowhere/*.py"], r"--configs: no file nowhere/\*\.py"),
        (["--configs", "configs/edsr.py", "configs/../configs/edsr.py"], "configs of different names .* edsr"),
        (["--configs", "configs/table2.py", "configs/ablations.py:c2"], "configs of different names .* c2$"),
        (["--configs=configs/table2.py:c3"], "configs/table2.py:c3: one of the rows c2, .* expected, got 'c3'"),
        (["--configs=setup.cfg"], r"setup\.cfg: invalid syntax"),
        (["--set", "stepps=3"], r"--set stepps=3: none of the configs has a field stepps; did you mean steps\?"),
        (["--set", "steps"], "--set: field=value expected, got 'steps'"),
        (["--set", "steps=three"], r"first\.py: .*three"),
        (["--set", "data.name=cufed"], r"first\.py: no prepared dataset cufed"),
        (["--set", "eval.sets="], r"first\.py: config\.eval\.sets is empty"),
        (["--set", "schedule=linear"], r"first\.py: config\.schedule: one of steps, cosine"),
        (["--set", "seed=4294967295", "--seeds=2"], r"first\.py: config\.seed: a whole number from 0 to 4294967295"),
        (["--set", "model.features=0"], r"first\.py: config\.model\.features: 2 values, each a whole number"),
        (["--set", "init_from=nowhere"], r"first\.py: config\.init_from=nowhere: no checkpoint in nowhere"),
        (["--set", "weights.masa=none.pth"], r"none of the configs has a field weights\.masa"),
        (["--set", "steps=5", "--minutes=1"], "--minutes or --set steps=N expected, got both"),
        (["--seeds=0"], "--seeds from 1 to 1,000 and --minutes above 0"),
        (["--seeds=99999999999999999999"], "--seeds from 1 to 1,000"),
        (["--minutes=0"], "--minutes above 0"),
        (["--minutes=nan"], "--minutes above 0"),
        (["--minutes=inf"], "--minutes above 0"),
    ],
)
def test_mistakes_end_before_anything_runs(configs, tmp_path, monkeypatch, capsys, options, message):
    calls = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runs, "execute", fake_execute(calls))
    with pytest.raises(SystemExit) as end:
        table.main([f"--configs={configs}", f"--workdir={tmp_path / 'runs'}", *options])
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not calls
    assert not (tmp_path / "runs").exists()


def test_workdirs_of_other_configs_end_before_anything_runs(configs, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(runs, "execute", fake_execute(calls))
    arguments = [f"--configs={configs}", f"--workdir={tmp_path / 'runs'}"]
    table.main(arguments)
    with pytest.raises(SystemExit):
        table.main([*arguments, "--set", "batch_size=2"])
    assert re.search(r"holds another config's run(.|\n)*batch_size: 1 there, 2 here", capsys.readouterr().err)
    assert len(calls) == 2


def test_overrides_that_only_some_configs_have(configs, tmp_path, capsys):
    first, second = runs.plan([configs], tmp_path, ["model.blocks=3", "loss.rec=2"], 1)
    assert (first.overrides, second.overrides) == (("loss.rec=2",), ("model.blocks=3", "loss.rec=2"))
    assert (second.config.model.blocks, second.config.loss.rec) == (3, 2.0)
    assert "note: --set model.blocks=3 has no effect on first" in capsys.readouterr().err


def test_decays_keep_their_place_relative_to_the_end(configs, tmp_path):
    (run, _) = runs.plan([configs], tmp_path, ["decay_steps=(10, 30)"], 1)
    longer = table.with_steps(run, 400)
    assert (longer.config.steps, longer.config.decay_steps) == (400, (100, 300))
    assert table.with_steps(longer.override(decay_steps=()), 7).config.decay_steps == ()


def test_a_config_that_ends_before_it_can_be_timed(configs, tmp_path, monkeypatch):
    (run, _) = runs.plan([configs], tmp_path, [], 1)
    monkeypatch.setattr(runs, "execute", lambda *_: 2)
    with pytest.raises(InputError, match=r"first\.py: ended after 0 steps, before a step could be timed"):
        runs.measure_seconds_per_step(run, tmp_path / "timing", bool, 0)


def test_published_figures_belong_to_configs_and_are_those_of_their_docstrings():
    files = {config_files.name(name.replace(":", ".py:")): name.partition(":")[0] for name in CONFIGS}
    for name, (psnr, ssim) in ((name, published.CONFIGS[name]) for name in files if name in published.CONFIGS):
        said = f"{psnr:.2f} dB / {ssim:.3f}"
        text = CONFIG_FILES[files[name]].__doc__
        line = next((line for line in text.splitlines() if line.startswith(f"| {name} |")), text)
        assert said in line, name
    assert set(CONFIG_FILES["table2"].ROWS) <= set(published.CONFIGS)
    # Their configs do not all exist.
    without = {"SRGAN", "ENet", "ESRGAN", "RankSRGAN", "SRNTT", "SSEN", "DCSR", "C2-Matching", "MASA", "TTSR"}
    assert {method for name, method in published.METHODS.items() if name not in files} <= without


def test_table_of_two_seeds_beside_the_published_row():
    def seed(psnr, **changes):
        bicubic = {"psnr_y": 24.0, "ssim_y": 0.7, "gmsd_y": 0.2}
        columns = {"bicubic": bicubic, "level_1": {"psnr_y": psnr, "ssim_y": 0.8} | changes, "stack": {}}
        return {"step": 9, "minutes": 1.5, "sets": {"cufed5": {"references": columns, "border": 4}}}

    rows = {
        "c2": {"published": (28.4, 0.846), "seeds": {0: seed(28.0, gmsd_y=0.11), 1: seed(28.2, gmsd_y=0.13)}},
        "older": {"published": None, "seeds": {0: seed(28.0), 1: seed(28.0, gmsd_y=0.1)}},
        "masa": {"published": (27.47, 0.815), "seeds": {}},
    }
    text = comparison.markdown(rows).splitlines()
    assert text[0].startswith("cufed5; PSNR")
    assert text[4:] == [
        "| bicubic |  | 4 |  |  |  | 24.00 | 0.7000 | 0.2000 |  |  |",
        "| c2 | level 1 | 4 | 2 | 9 | 1.5 | 28.10 ± 0.14 | 0.8000 ± 0.0000 | 0.1200 ± 0.0141 | 28.40 | 0.846 |",
        "| older | level 1 | 4 | 2 | 9 | 1.5 | 28.00 ± 0.00 | 0.8000 ± 0.0000 |  |  |  |",
        "| masa |  |  | 0 |  |  |  |  |  | 27.47 | 0.815 |",
    ]
    assert all(line.count("|") == text[2].count("|") for line in text[2:])


def test_what_was_measured_besides_has_columns():
    rows = {}
    for name, more in (("nlsn", {"niqe": 5.0, "lpips": 0.25}), ("edsr", {"niqe": 6.0})):
        scores = {"psnr_y": 24.0, "ssim_y": 0.7, "gmsd_y": 0.2} | more
        result = {"references": {"bicubic": scores, "lr_itself": scores}, "border": 4}
        rows[name] = {"published": None, "seeds": {0: {"step": 9, "minutes": None, "sets": {"sun80": result}}}}
    text = comparison.markdown(rows).splitlines()
    assert "lower GMSD, NIQE, LPIPS is better; the paper's figures are of the same set; NIQE: its statistics" in text[0]
    titles = [cell.strip() for cell in text[2].split("|")]
    assert titles[7:14] == ["PSNR", "SSIM", "GMSD", "NIQE", "LPIPS", "paper: PSNR", "SSIM"]
    assert text[-2:] == [
        "| nlsn | lr itself | 4 | 1 | 9 |  | 24.00 | 0.7000 | 0.2000 | 5.00 | 0.2500 | 30.16 | 0.816 |",
        "| edsr | lr itself | 4 | 1 | 9 |  | 24.00 | 0.7000 | 0.2000 | 6.00 |  | 28.52 | 0.792 |",
    ]


def test_the_papers_table_1_with_ours_beside_it(tmp_path, monkeypatch, capsys):
    """All methods in the paper's order; those without a finished run have the paper's figures alone."""
    monkeypatch.setattr(runs, "execute", fake_execute([], lambda run: int(run.name == "nlsn")))
    monkeypatch.setattr(runs, "check", lambda run, planned: None)
    files = [str(ROOT / "configs" / name) for name in ("rcan.py", "table1.py:nlsn", "table2.py:masa_rtrr", "masa.py")]
    options = [f"--workdir={tmp_path / 'runs'}", "--seeds=2", "--set", "eval.sets=embedded", "--table1"]
    with pytest.raises(SystemExit):
        table.main(["--configs", *files, *options])
    lines = capsys.readouterr().out.rpartition("The paper's Table 1")[2].splitlines()[2:]
    assert lines[0] == "| method | config | cufed5: paper | embedded: ours |"
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(published.TABLE1)
    ours = "20.50 ± 0.71 / 0.5000 ± 0.0000"
    for line in (
        "| SRCNN |  | 25.33 / 0.745 |  |",
        f"| RCAN | rcan | 26.06 / 0.769 | {ours} |",
        "| NLSN | nlsn | 26.53 / 0.784 |  |",
        f"| MASA-rec | masa | 27.54 / 0.814 | {ours} |",
    ):
        assert line in lines


def test_table_1_on_other_sets():
    def seed(**sets):
        rows = {name: {"psnr_y": psnr, "ssim_y": 0.75} for name, psnr in (("bicubic", 20.0), ("level_1", 30.0))}
        return {"sets": {name: {"references": rows} for name in sets}}

    text = comparison.table1({"edsr": {"seeds": {0: seed(sun80=1, mine=1)}}, "dcsr_rec": {"seeds": {0: seed(sun80=1)}}})
    lines = text.splitlines()[2:]
    assert lines[0] == "| method | config | sun80: paper | sun80: ours | mine: ours |"
    assert "| EDSR | edsr | 28.52 / 0.792 | 30.00 / 0.7500 | 30.00 / 0.7500 |" in lines
    assert "| DCSR-rec | dcsr_rec |  | 30.00 / 0.7500 |  |" in lines


def test_a_chain_of_stages_is_one_table():
    def seed(columns, **changes):
        return {"step": 5, "minutes": 1.0, "sets": {"embedded": {"references": columns} | changes}}

    def matched(hr, lr):
        columns = {"hr_hr": hr, "lr_hr": lr, "untrained_lr_hr": 0.5, "random_lr_hr": 0.2}
        return {"published": None, "seeds": {0: seed({k: {"within_one_cell": v} for k, v in columns.items()})}}

    bicubic, reference = ({"psnr_y": p, "ssim_y": 0.7, "gmsd_y": 0.2} for p in (24.0, 25.0))
    rec = seed({"bicubic": bicubic, "reference": reference}, border=4)
    rows = {"teacher": matched(0.875, 0.75), "rec": {"published": None, "seeds": {0: rec}}}
    rows["gan"] = {"published": None, "seeds": {}}
    text = comparison.markdown(rows).splitlines()
    assert [line.strip() for line in text[2].split("|")[7:12]] == ["HR-HR", "LR-HR", "PSNR", "SSIM", "GMSD"]
    assert text[4:] == [
        "| random correspondence net |  |  |  |  |  |  | 20.0 % |  |  |  |  |  |",
        "| untrained correspondence net |  |  |  |  |  |  | 50.0 % |  |  |  |  |  |",
        "| bicubic |  | 4 |  |  |  |  |  | 24.00 | 0.7000 | 0.2000 |  |  |",
        "| teacher |  |  | 1 | 5 | 1.0 | 87.5 % | 75.0 % |  |  |  |  |  |",
        "| rec | reference | 4 | 1 | 5 | 1.0 |  |  | 25.00 | 0.7000 | 0.2000 |  |  |",
        "| gan |  |  | 0 |  |  |  |  |  |  |  |  |  |",
    ]


def test_runs_come_after_those_they_start_from(tmp_path):
    planned = runs.plan([str(ROOT / "configs/chain.py")], tmp_path, ["steps=7"], 2)
    assert [(run.name, run.config.seed) for run in planned] == [
        (name, seed) for name in ("teacher", "student", "rec", "gan", "student_alone") for seed in (0, 1)
    ]
    sources = {run.workdir.relative_to(tmp_path): run.config.init_from for run in planned}
    assert sources[pathlib.Path("teacher/seed_1")] == ""
    assert sources[pathlib.Path("student_alone/seed_1")] == str(tmp_path / "teacher/seed_1")
    assert sources[pathlib.Path("gan/seed_0")] == str(tmp_path / "rec/seed_0")
    with pytest.raises(InputError, match="rec, gan start from each other"):
        runs.plan([str(ROOT / f"configs/chain.py:{name}") for name in ("rec", "gan")], tmp_path, ["init_from=rec"], 1)


def test_nothing_starts_from_a_run_that_failed(tmp_path, monkeypatch):
    broken, calls = {"teacher"}, []
    monkeypatch.setattr(runs, "execute", fake_execute(calls, lambda run: 2 * (run.name in broken)))
    monkeypatch.setattr(runs, "check", lambda run, planned: None)
    arguments = ([str(ROOT / "configs/chain.py")], tmp_path / "runs", [], 1, None)
    failed = table.run_list(*arguments)
    assert [name for name, *_ in calls] == ["teacher"]
    assert [path.parent.name for path in failed] == ["teacher", "student", "rec", "gan", "student_alone"]
    broken.clear()
    assert table.run_list(*arguments) == []
    assert [name for name, *_ in calls] == ["teacher", "teacher", "student", "rec", "gan", "student_alone"]


def test_a_list_needs_what_its_configs_start_from(tmp_path):
    with pytest.raises(
        InputError, match=r"chain.py:rec: config.init_from=student: no checkpoint in student; the folder"
    ):
        table.run_list([str(ROOT / "configs/chain.py:rec")], tmp_path / "runs", [], 1, None)


def test_a_gan_is_timed_with_its_discriminator(tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(runs, "execute", lambda run, stop, lock: timed.append(run.config))
    (run,) = runs.plan([str(ROOT / "configs/cufed5_gan.py")], tmp_path, [], 1)
    with pytest.raises(InputError, match="before a step could be timed"):
        runs.measure_seconds_per_step(run, tmp_path / "scratch", bool, 0)
    assert (timed[0].pixel_steps, timed[0].init_from) == (0, "")


def fake_records(run, *seconds):
    """The records of a run whose steps took so long."""
    run.workdir.mkdir(parents=True)
    records = [{"step": i, "train/loss": 1.0, "seconds_per_step": s} for i, s in enumerate(seconds, start=1)]
    evaluation = {"step": len(seconds), "val/cufed5/reference/psnr_y": 24.0}
    lines = [json.dumps(record) for record in (*records, evaluation)]
    (run.workdir / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "tra']))


def test_minutes_of_training(tmp_path):
    (run,) = runs.plan([str(ROOT / "configs/cufed5.py")], tmp_path, ["steps=120"], 1)
    assert comparison._training_minutes(run) is None
    fake_records(run, None, 2.0, 3.0)
    assert comparison._training_minutes(run) == 5.0
    assert comparison._effort([{"step": 9, "minutes": 5.0}, {"step": 9, "minutes": None}]) == [2, 9, "5.0"]


def test_seconds_of_a_step(tmp_path, monkeypatch):
    (run,) = runs.plan([str(ROOT / "configs/cufed5.py")], tmp_path, [], 1)
    monkeypatch.setattr(runs, "execute", lambda run, stop, lock: fake_records(run, None, 2.0, 3.0, 2.5))
    assert runs.measure_seconds_per_step(run, tmp_path / "scratch", bool, 0) == 2.5
    assert not (tmp_path / "scratch").exists()
    monkeypatch.setattr(runs, "execute", lambda run, stop, lock: fake_records(run, None, 2.0, 3.0))
    with pytest.raises(InputError, match=r"cufed5\.py: ended after 3 steps"):
        runs.measure_seconds_per_step(run, tmp_path / "scratch", bool, 0)


def test_names_of_configs():
    table2 = [f"configs/table2.py:{row}" for row in CONFIG_FILES["table2"].ROWS]
    assert config_files.expand(str(ROOT / "configs/table2.py")) == [f"{ROOT}/{config}" for config in table2]
    assert config_files.expand(str(ROOT / "configs/table2*.py:masa")) == [f"{ROOT}/configs/table2.py:masa"]
    assert config_files.expand(str(ROOT / "configs/demo.py")) == [f"{ROOT}/configs/demo.py"]
    assert config_files.name("configs/fig5b.py:0.4") == "0.4"
    assert config_files.name("configs/demo.py") == "demo"


def test_the_table_of_another_list_is_no_earlier_one(tmp_path):
    def run(name, seed):
        return runs.Run(name, "a.py", (), ConfigDict({"seed": seed}), tmp_path / name)

    path, planned = tmp_path / "table.json", [run("a", 0), run("a", 1), run("b", 0)]
    for content, others in (
        (None, False),
        ({"a": {"seeds": {"1": {}}}}, False),
        ({"a": {"seeds": {"2": {}}}}, True),
        ({"c": {"seeds": {"0": {}}}}, True),
        ([], True),
    ):
        if content is not None:
            path.write_text(json.dumps(content))
        assert table._has_others(path, planned) == others
