"""Command line.

python -m rrsr_jax.main --config=configs/demo.py --workdir=runs/demo [--mode=train|eval] [--config.key=value ...]
python -m rrsr_jax.main --config=configs/table2.py:masa --workdir=runs/masa  # a row of a file that has several
python -m rrsr_jax.main --mode=eval --workdir=runs/demo [--config.key=value ...]  # the config in its newest checkpoint
python -m rrsr_jax.main ... --distributed [--coordinator=HOST:PORT --processes=N --process=I]  # one of several processes
"""

import json
import logging as python_logging
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from flax import traverse_util
from ml_collections import config_flags

from rrsr_jax import config_files, processes
from rrsr_jax.console import exit_on_error, log
from rrsr_jax.errors import InputError
from rrsr_jax.training import train
from rrsr_jax.workdir import compilation_cache, saved_config
from rrsr_jax.workdir.integrity import description

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, or FILE:ROW; override a field with --config.field=value."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: config, checkpoints, logs, results.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train (or go on) and evaluate, or evaluate only.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other processes of the run first. Within a job of SLURM, Open MPI or a TPU pod, that is all.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT where process 0 listens, the same for all processes."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes the run has.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this one is, counted from 0.", lower_bound=0)
STOPPED = 75  # exit status of a run that was asked to stop and has saved, EX_TEMPFAIL of sysexits.h: try again

flags.mark_flag_as_required("workdir")
flags.register_validator(
    "config", lambda config: config is not None, "a file is needed (but with --mode=eval and a checkpoint in --workdir)"
)


def main(argv: list[str]) -> None:
    """Runs the mode; bad input ends with a message and exit status 2, a request to stop with `STOPPED`."""
    del argv  # the program's name
    logging.set_verbosity(logging.FATAL)  # Orbax and JAX log a lot, and also raise their errors
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)  # Orbax's, of a save that fails
    kernels = python_logging.getLogger("kernels")
    kernels.level, kernels.handlers, kernels.propagate = python_logging.INFO, [_ToLog()], False
    compilation_cache.use()
    run = {"train": train.train_and_evaluate, "eval": train.evaluate_only}[_MODE.value]
    left = "the same command goes on from the last checkpoint"
    with exit_on_error(interrupted=left):
        processes.join(_DISTRIBUTED.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        with processes.ending_together(interrupted=left):
            flags_given = {"--mode": _MODE.value, "--workdir": str(_WORKDIR.value)}
            fields = traverse_util.flatten_dict(json.loads(_CONFIG.value.to_json()), sep=".")
            processes.check_alike("flags and config", flags_given | {f"config.{k}": v for k, v in fields.items()})
            found = run(_CONFIG.value, str(_WORKDIR.value))
    if found is None:
        sys.exit(STOPPED)


class _ToLog(python_logging.Handler):
    def emit(self, record):
        log(record.getMessage())


def parse(argv: list[str]) -> list[str]:
    """Absl's parser, with a message instead of a traceback for a config file, row or field that does not exist.

    For an evaluation `--config` may be left out; the checkpoint's config is used then.
    """
    try:
        argv, config = _with_config(argv)
        if config:
            config_files.check(config)
        with config_files.importable_neighbours(config):
            program, *others = flags.FLAGS(argv)
        if others:
            raise InputError(f"flags expected, as in --workdir=runs/demo, got {' '.join(others)}")
        return [program]
    except (InputError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
    except AttributeError as error:
        if not isinstance(error.args[0], Exception):  # not from ml_collections: a bug in a config file
            raise
        print("error: --config has no field", *error.args[0].args[0].splitlines(), file=sys.stderr)
    sys.exit(2)


def _config_first(argv: list[str]) -> list[str]:
    """`argv` with `--config` first: ml_collections, which reads `sys.argv`, wants it before what overrides its fields."""
    for i, word in enumerate(argv):
        if re.fullmatch(r"--?config(=.*)?", word):
            after = i + (1 if "=" in word else 2)
            return [argv[0], *argv[i:after], *argv[1:i], *argv[after:]]
    return argv


def _with_config(argv: list[str]) -> tuple[list[str], str]:
    """`argv` and its `--config`; for an evaluation without one, the checkpoint's config is added."""
    given = flags.FlagValues()
    for name in ("config", "mode", "workdir"):
        flags.DEFINE_string(name, None, "", flag_values=given)
    given.set_gnu_getopt()  # continue after arguments that are no flags: they may be values of flags unknown here
    try:
        given(argv, known_only=True)
    except flags.Error:  # the real parser will say it
        return argv, ""
    if given.config or given.mode != "eval" or not given.workdir:
        return argv, given.config or ""
    description(pathlib.Path(given.workdir))  # raises InputError here; within a config file it gives a traceback
    config = f"{saved_config.__file__}:{given.workdir}"
    return [argv[0], f"--config={config}", *argv[1:]], config


@exit_on_error()
def run(argv: Sequence[str]) -> None:
    """The command line, the program's name first."""
    sys.argv = _config_first(list(argv))
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run(sys.argv)
