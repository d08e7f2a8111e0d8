"""The documentation: every command is accepted by its program and run by a test or by CI; fields, links and code are right."""

import argparse
import ast
import configparser
import functools
import importlib
import pathlib
import re
import shlex
import sys
from typing import NamedTuple

import jax
import pytest
from absl import flags

from rrsr_jax import config_files, main
from rrsr_jax.experiments import runs
from tests.helpers import ROOT, tiny_rrsr

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}
README_BYTES = 7 * 1024
PROGRAMS = (
    "python",
    "python3",
    "pip",
    "source",
    "ruff",
    "pyright",
    "pytest",
    "launch/",
    "sbatch",
    "docker",
    "kubectl",
)  # inline code may begin with one

CI = ".ci/run"
CONFIGS = "tests/test_configs.py::test_runs_for_a_step"
PAPER_RUN = "tests/training/test_train.py::test_the_paper_run_on_a_few_pairs"
LISTS = "tests/experiments/test_table.py::test_interrupted_lists_go_on_where_they_stopped"
EQUAL_TIME = "tests/experiments/test_table.py::test_the_same_minutes_for_all"
BENCHMARK = "tests/experiments/test_bench.py::test_all_parts_of_the_benchmark"
FETCH = "tests/weights/test_download.py::test_command"
IMPORT_AND_EXPORT = "tests/weights/test_weights.py::test_command"
METRICS = "tests/weights/test_weights.py::test_weights_of_a_metric_from_its_own_file_and_vgg16"
SCALE = "tests/experiments/test_scale.py::"
SCRIPTS = "tests/test_scripts.py::"
TWO_PROCESSES = f"{SCRIPTS}test_two_processes_on_this_machine"
IMAGE = f"{SCRIPTS}test_the_image_starts_the_program"
CAMPAIGNS = "tests/campaigns/test_campaigns.py::"
MAIN = "python -m rrsr_jax.main"
PREPARE = "python -m rrsr_jax.data.prepare"
WEIGHTS = "python -m rrsr_jax.weights"
TABLE = "python -m rrsr_jax.experiments.table"
UPSCALE = "python -m rrsr_jax.upscale"
UPSCALE_ONE = "tests/test_upscale.py::test_one_photograph"
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -e"
VGG19 = "--config.weights.vgg=vgg19-dcbb9e9d.pth"
LIST_WEIGHTS = "--set weights.vgg=vgg19-dcbb9e9d.pth init_from=runs/student"

# Every command of the documentation, and what runs it, smaller: tests, or lines of .ci/run.
RUN_BY = {
    f"{INSTALL} . && .venv/bin/python -m rrsr_jax.upscale --example": CI,
    f"{INSTALL} .[test] && .venv/bin/python -m pytest -n 2 --dist loadfile": CI,
    f"{INSTALL} .[test]": CI,
    "pip install -e .[torch]": CI,
    "pip install -e .[web]": CI,
    "python -m rrsr_jax.web": "tests/test_web.py::test_the_command_serves_this_computer_with_the_limits_that_it_is_given",
    "python -m rrsr_jax.export --weights photo --out photo.jaxexport": "tests/test_export.py::test_command",
    "python -m rrsr_jax.export --weights photo --out photo_128.jaxexport --dtype uint8 --size 128x128 --ref-size 512x512": (
        "tests/test_export.py::test_command"
    ),
    "source .venv/bin/activate": CI,
    "python -m pytest -n 2 --dist loadfile": CI,
    "ruff check .": CI,
    "ruff format --check .": CI,
    "pyright": CI,
    f"{PREPARE} --dataset=photos --source=PHOTOS --tile=320": CI,
    f"{PREPARE} --dataset=ref_pairs --source=PAIRS": CI,
    f"{PREPARE} --dataset=cufed --source=CUFED": PAPER_RUN,
    f"{PREPARE} --dataset=cufed5 --source=CUFED5": PAPER_RUN,
    "python docs/warp.py docs/warp.jpg": f"{SCRIPTS}test_figures_of_the_documentation",
    f"{MAIN} --config=configs/demo.py --workdir=runs/demo": CI,
    f"{MAIN} --config=configs/demo.py --workdir=runs/profile --config.profile_steps=5": CI,
    f"{MAIN} --config=configs/photos.py --workdir=runs/photos": (
        "tests/training/test_train.py::test_training_on_photographs"
    ),
    f"{MAIN} --config=configs/matcher.py:teacher --workdir=runs/teacher "
    "--config.weights.vgg16=vgg16-397923af.pth": CONFIGS,
    f"{MAIN} --config=configs/matcher.py:student --workdir=runs/student --config.init_from=runs/teacher": CONFIGS,
    f"{MAIN} --config=configs/cufed5.py --workdir=runs/cufed5 --config.init_from=runs/student {VGG19}": PAPER_RUN,
    f"{MAIN} --config=configs/cufed5_gan.py --workdir=runs/gan --config.init_from=runs/cufed5 {VGG19}": CONFIGS,
    f"{MAIN} --mode=eval --workdir=runs/photos --config.eval.sets=ref_pairs": CI,
    f"{MAIN} --mode=eval --workdir=runs/cufed5 --config.eval.sets=cufed5,wr_sr": CI,
    f"{MAIN} --mode=eval --config=configs/cufed5.py --workdir=runs/bicubic --config.eval.references=bicubic": (
        "tests/evaluation/test_report.py::test_bicubic_alone_needs_no_model"
    ),
    "launch/local.sh 2 configs/demo.py runs/two": TWO_PROCESSES,
    f"{MAIN} --config=configs/cufed5.py --workdir=/nfs/runs/cufed5 --config.batch_size=16 --distributed "
    "--coordinator=10.0.0.1:8476 --processes=2 --process=0": TWO_PROCESSES,
    "sbatch launch/slurm.sbatch configs/cufed5.py runs/cufed5 --config.batch_size=16": f"{SCRIPTS}test_a_job_of_two_tasks",
    "launch/tpu_pod.sh configs/cufed5.py /nfs/runs/cufed5 --config.batch_size=16": (
        f"{SCRIPTS}test_all_workers_of_a_tpu_pod"
    ),
    "docker build --tag=rrsr_jax:cuda12 .": IMAGE,
    "docker build --tag=rrsr_jax:tpu --build-arg=DEVICE=tpu .": IMAGE,
    "kubectl apply --selector=variant=gpu --filename=launch/gke_jobset.yaml": (
        f"{SCRIPTS}test_the_job_sets_fit_kubernetes_and_the_program"
    ),
    "python -m tests.campaigns.kills --count=1000": f"{CAMPAIGNS}test_kills",
    "python -m tests.campaigns.bad_input --count=10000": f"{CAMPAIGNS}test_bad_input",
    "python -m tests.campaigns.disks --count=500": f"{CAMPAIGNS}test_disks",
    "python -m tests.campaigns.concurrency --count=100": f"{CAMPAIGNS}test_concurrency",
    f"{WEIGHTS} fetch vgg16": FETCH,
    f"{WEIGHTS} fetch vgg19": FETCH,
    f"{WEIGHTS} fetch vgg16 --out=weights/vgg16.pth": FETCH,
    f"{WEIGHTS} import --kind=vgg19 --source=vgg19-dcbb9e9d.pth --out=weights/vgg19": IMPORT_AND_EXPORT,
    f"{WEIGHTS} export --kind=vgg19 --source=weights/vgg19 --out=vgg19.safetensors --overwrite": IMPORT_AND_EXPORT,
    f"{WEIGHTS} import --kind=lpips --source vgg.pth vgg16-397923af.pth --out=weights/lpips": METRICS,
    f"{WEIGHTS} import --kind=dists --source weights.pt vgg16-397923af.pth --out=weights/dists": METRICS,
    f"{WEIGHTS} export --kind=rrsr --source=runs/cufed5 --out=rrsr.safetensors": (
        "tests/weights/test_weights.py::test_export_of_a_run"
    ),
    f"{WEIGHTS} pack --run=runs/photos --card=CARD.md --out=weights/photos": (
        "tests/weights/test_released.py::test_command"
    ),
    f"{UPSCALE} SMALL.jpg --ref SHARP.jpg": UPSCALE_ONE,
    f"{UPSCALE} SMALL.jpg --ref SHARP.jpg OTHER.jpg": UPSCALE_ONE,
    f"{UPSCALE} SMALL.jpg --ref ALBUM": "tests/test_upscale.py::test_the_best_of_an_album",
    f"{UPSCALE} PHOTOS --ref ALBUM --out RESULTS": "tests/test_upscale.py::test_a_folder",
    f"{UPSCALE} SMALL.jpg --ref SHARP.jpg --compare": "tests/test_upscale.py::test_the_page_of_one_photograph",
    f"{UPSCALE} SMALL.jpg --ref SHARP.jpg --weights runs/photos": (
        "tests/weights/test_released.py::test_a_run_loads_as_it_is_evaluated"
    ),
    "pip install -e .[heif]": CI,
    f"{TABLE} --configs configs/chain.py --workdir=runs/chain": (LISTS, CONFIGS),
    f"{TABLE} --configs configs/table2.py --workdir=runs/table2 --seeds=2 {LIST_WEIGHTS}": (LISTS, CONFIGS),
    f"{TABLE} --configs configs/table2.py:masa configs/table2.py:masa_rtrr --workdir=runs/masa": (LISTS, CONFIGS),
    f"{TABLE} --configs configs/fig5b.py --workdir=runs/fig5b {LIST_WEIGHTS}": (LISTS, CONFIGS),
    f"{TABLE} --configs configs/srcnn.py configs/edsr.py configs/rcan.py configs/table1.py "
    "configs/c2_matching.py configs/cufed5.py --workdir=runs/table1 --table1 --set weights.vgg=vgg19-dcbb9e9d.pth "
    "weights.correspondence=weights/correspondence eval.sets=cufed5,sun80,urban100,manga109,wr_sr": (
        "tests/experiments/test_table.py::test_the_papers_table_1_with_ours_beside_it",
        CONFIGS,
    ),
    f"{TABLE} --configs configs/ablations.py --workdir=runs/ablations --minutes=7 --seeds=2": (EQUAL_TIME, CONFIGS),
    "python -m rrsr_jax.experiments.costs": CI,
    "python -m rrsr_jax.experiments.scale --devices 2 4": f"{SCALE}test_command_on_two_and_four_devices",
    "python -m rrsr_jax.experiments.scale --topology v5e:2x4 --dtype float32": f"{SCALE}test_command_for_a_topology",
    "python -m rrsr_jax.experiments.figures --workdir=runs/demo": CI,
    "python -m rrsr_jax.experiments.figures --workdir=runs/demo --lr=SMALL.png --ref=SHARP.png": (
        "tests/experiments/test_figures.py::test_images_of_ones_own"
    ),
    "python -m rrsr_jax.experiments.bench --part step": BENCHMARK,
    "python -m rrsr_jax.experiments.bench --part inference": BENCHMARK,
    "python -m rrsr_jax.experiments.bench --part match": BENCHMARK,
    "python -m rrsr_jax.experiments.bench --part data": BENCHMARK,
    "python -m kernels.bench": "tests/kernels/test_bench.py::test_kernel_benchmark",
    "python -m kernels.bench --floors": "tests/kernels/test_bench.py::test_floors_table",
}


class Command(NamedTuple):
    """One program with its arguments; of `python -m MODULE` the program is the module."""

    program: str
    arguments: list[str]

    def flags(self) -> set[str]:
        return {argument.partition("=")[0] for argument in self.arguments if argument.startswith("-")}

    def values(self, flag: str) -> list[str]:
        return [argument.partition("=")[2] for argument in self.arguments if argument.startswith(f"{flag}=")]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def inline_code(text):
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def shell_lines(script):
    """Lines as a shell sees them, each a list of words; lines that are not of a shell, in a here-document, may be left out."""
    for line in script.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        if words:
            yield words


def commands_of(text):
    inline = [code for code in inline_code(text) if re.match(rf"({'|'.join(PROGRAMS)})\b", code) and " " in code]
    return [words for script in [*blocks(text, "bash"), *inline] for words in shell_lines(script)]


def single_commands(words):
    """The commands that `&&` joins."""
    line = [[]]
    for word in words:
        line.append([]) if word == "&&" else line[-1].append(word)
    for program, *arguments in filter(None, line):
        name = program.rpartition("/")[2]
        if name in ("python", "python3") and arguments[:1] == ["-m"]:
            yield Command(arguments[1], arguments[2:])
        elif name in ("python", "python3") and arguments:
            yield Command(arguments[0], arguments[1:])
        else:
            yield Command(name if program.startswith((".venv/", "$work")) else program, arguments)


ALL = sorted({" ".join(words) for text in PAGES.values() for words in commands_of(text)})


@functools.cache
def fields_of_all_configs():
    configs = [config_files.load(name) for name in config_files.expand(str(ROOT / "configs/*.py"))]
    return set().union(*map(config_files.fields, configs))


def check_main(command):
    """The config exists, with the row and all fields that are named; other flags are those of the program."""
    overrides = [flag.removeprefix("--config.") for flag in command.arguments if flag.startswith("--config.")]
    config_files.load((command.values("--config") or ["configs/cufed5.py"])[0], overrides)
    for flag in command.flags() - {"--config", *(f"--config.{o.partition('=')[0]}" for o in overrides)}:
        name = flag.removeprefix("--")
        assert flags.FLAGS.find_module_defining_flag(name) == main.__name__, flag
        (value,) = command.values(flag) or ["true"]
        flags.FLAGS[name].parser.parse(value)
    assert all(argument.startswith("--") for argument in command.arguments)


class Accepted(Exception):
    """The parser had no objection."""


def parsed(command, monkeypatch):
    """What the program's own `argparse` parser makes of the arguments."""
    module = importlib.import_module(command.program)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{command.program}.__main__")
    parse = argparse.ArgumentParser.parse_args

    def stop(*arguments, **options):
        raise Accepted(parse(*arguments, **options))

    monkeypatch.setattr(sys, "argv", [command.program, *command.arguments])
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Accepted) as accepted:
            module.main()
    return accepted.value.args[0]


@pytest.mark.parametrize("line", ALL)
def test_commands_are_accepted_by_their_programs(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in single_commands(line.split()):
        if command.program == "rrsr_jax.main":
            check_main(command)
        elif command.program.split(".")[0] in ("rrsr_jax", "kernels", "tests"):
            options = parsed(command, monkeypatch)
            if command.program == "rrsr_jax.experiments.table":
                runs.plan(options.configs, pathlib.Path(options.workdir), options.set, options.seeds)
        elif "/" in command.program or command.program == "sbatch":
            script = command.arguments[0] if command.program == "sbatch" else command.program
            assert (ROOT / script).is_file()
            if script.startswith("launch/"):
                (config,) = (argument for argument in command.arguments if argument.startswith("configs/"))
                config_files.check(config)
        elif command.program == "docker":
            options = [value.partition("=")[0] for value in command.values("--build-arg")]
            assert all(f"\nARG {option}=" in (ROOT / "Dockerfile").read_text() for option in options)
        elif command.program == "kubectl":
            assert all((ROOT / name).is_file() for name in command.values("--filename"))
        elif command.program == "pip":
            setup = configparser.ConfigParser()
            setup.read(ROOT / "setup.cfg")
            extras = re.findall(r"\.\[(.*)\]", command.arguments[-1])
            assert command.arguments[:2] == ["install", "-e"]
            assert all(extra in setup["options.extras_require"] for extra in ",".join(extras).split(",") if extra)
        else:
            assert command.program in ("venv", "source", "ruff", "pyright", "pytest")


def ci_runs(command):
    """Whether .ci/run has the program with the same subcommand, config, data set and flags; it may have more flags."""

    def main_part(command):
        subcommand = command.arguments[:1] if command.program in ("pip", "ruff", "rrsr_jax.weights") else []
        values = [value for flag in ("--config", "--dataset", "--kind", "--mode") for value in command.values(flag)]
        return command.program, subcommand, [value.rpartition("/")[2] for value in values]

    run = [c for words in shell_lines((ROOT / CI).read_text()) for c in single_commands(words)]
    return any(main_part(c) == main_part(command) and command.flags() <= c.flags() for c in run)


def test_every_command_is_run():
    assert sorted(RUN_BY) == ALL, "RUN_BY says by which test, or that .ci/run does it"
    missing = []
    for line, runners in RUN_BY.items():
        for runner in [runners] if isinstance(runners, str) else runners:
            if runner == CI:
                missing += [f"{CI}: {command}" for command in single_commands(line.split()) if not ci_runs(command)]
                continue
            path, _, function = runner.partition("::")
            tree = ast.parse((ROOT / path).read_text()) if (ROOT / path).is_file() else ast.parse("")
            if function not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
                missing.append(runner)
    assert not missing, "\n".join(missing)


def test_fields_exist():
    known = fields_of_all_configs()
    named = {
        match[1]
        for text in PAGES.values()
        for code in inline_code(text)
        if (match := re.match(r"(?:--)?config\.((?!json\b)[a-z][\w.]*)", code))
    }
    assert named - known == set()


def test_fields_are_documented():
    """Each by its full name, or the name of a group whose members explain themselves."""
    data = ("view", "reference_shares", "light", "degradation", "reference_degradation")
    groups = ("loss", "learning_rates", "discriminator", *(f"data.{part}" for part in data))
    documented = {code.removeprefix("config.") for text in PAGES.values() for code in inline_code(text)}
    for config in ("cufed5.py", "cufed5_gan.py", "matcher.py:teacher"):
        for field in config_files.fields(config_files.load(f"{ROOT}/configs/{config}")):
            parts = ("model", "weights", "data", "eval", *groups[:3], "model.channels")
            if field not in parts and not field.startswith(tuple(f"{group}." for group in groups)):
                assert field in documented, f"config.{field}"


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, "kernels/FLOORS.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            path = (ROOT / page).parent / name if name else ROOT / page
            assert path.is_file(), target
            assert not anchor or anchor in map(slug, re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)), target


def test_the_readme_is_short_and_leads_to_every_page():
    assert (ROOT / "README.md").stat().st_size <= README_BYTES
    assert all(page in PAGES["README.md"] for page in PAGES if page != "README.md")


def test_files_that_are_named_exist():
    """Inline code with a folder of the project in front."""
    folders = "configs|docs|kernels|launch|notebooks|rrsr_jax|tests"
    named = {code.partition(":")[0] for text in PAGES.values() for code in inline_code(text)}
    paths = {code for code in named if re.fullmatch(rf"({folders})/[\w/.]*", code)}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


PYTHON = [(page, code) for page, text in PAGES.items() for code in blocks(text, "python")]


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_code_runs(page, code):
    """Traced, without computing, with a small model. Of code that reads files only the imports run."""
    if any(name in code for name in (".safetensors", ".jaxexport", ".png")):
        code = "\n".join(line for line in code.splitlines() if line.startswith(("import ", "from ")))
    namespace = {"tiny_rrsr": tiny_rrsr}

    def run():
        exec(code.replace("RRSR()", "tiny_rrsr(alignments=(1, 1, 1))"), namespace)
        return namespace.get("sr")

    result = jax.eval_shape(run)
    if page == "README.md" and "RRSR()" in code:
        assert result.shape == (1, 128, 96, 3)


def test_rooms_import_only_lower_levels():
    levels = re.findall(r"^\| (\d) \| `(\w+)`", PAGES["docs/architecture.md"], re.MULTILINE)
    level = {room: int(number) for number, room in levels}
    files = [*(ROOT / "rrsr_jax").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]

    def room_of(name):
        first, second, *_ = [*name.split("."), "", ""]
        return first if first == "kernels" else second if first == "rrsr_jax" else ""

    rooms = set()
    for path in files:
        room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if room == "__init__":  # the package's face, which imports when it is asked
            continue
        rooms.add(room)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for other in map(room_of, names):
                if other in level and other != room:
                    assert level[other] < level[room], f"{path.relative_to(ROOT)} imports {other}"
    assert rooms == set(level)
