"""Command line.

python -m rrsr_jax.main --config=configs/demo.py --workdir=runs/demo [--mode=train|eval] [--config.key=value ...]
"""

import logging as python_logging
import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from rrsr_jax import train
from rrsr_jax.errors import InputError
from rrsr_jax.progress import log

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; override a field with --config.field=value.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: config, checkpoints, logs, results.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train (or go on) and evaluate, or evaluate only.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of a pod or cluster job first.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Runs the mode; bad input ends with a message and exit status 2."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.ERROR)  # Orbax and JAX tell a lot
    kernels = python_logging.getLogger("kernels")
    kernels.level, kernels.handlers, kernels.propagate = python_logging.INFO, [_ToLog()], False
    if jax.config.jax_compilation_cache_dir is None:  # JAX_COMPILATION_CACHE_DIR chooses another folder
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "rrsr_jax"))
    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    run = {"train": train.train_and_evaluate, "eval": train.evaluate_only}[_MODE.value]
    try:
        run(_CONFIG.value, _WORKDIR.value)
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


class _ToLog(python_logging.Handler):
    def emit(self, record):
        log(record.getMessage())


def parse(argv: list[str]) -> list[str]:
    """Absl's parser, with a message instead of a traceback for a config field that does not exist."""
    try:
        return app.parse_flags_with_usage(argv)
    except AttributeError as error:
        if not isinstance(error.args[0], Exception):  # not from ml_collections: a bug in a config file
            raise
        print("error: --config has no field", *error.args[0].args[0].splitlines(), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
