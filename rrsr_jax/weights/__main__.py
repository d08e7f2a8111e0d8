"""Weights from and to files. Nothing that a file contains is ever executed.

python -m rrsr_jax.weights fetch vgg19 [--out=PATH] [--url=URL] [--sha256=HEX]
python -m rrsr_jax.weights import --kind=KIND --source=FILE --out=DIR
python -m rrsr_jax.weights export --kind=KIND --source=DIR --out=FILE.safetensors [--overwrite]

`fetch` downloads what torchvision publishes. `import` checks a PyTorch-layout FILE (.safetensors, .npz, or .pth and .pt, which
need PyTorch) and makes a folder of it that config.weights can name. `export` makes a PyTorch-layout file of such a folder, or of
the newest checkpoint in the workdir of a run.

KIND: vgg19, correspondence, rrsr, c2_matching, discriminator, ttsr, masa.
"""

import argparse
import sys
from collections.abc import Sequence

import jax
from absl import logging

from rrsr_jax.errors import InputError
from rrsr_jax.weights import _MODULES, PARTS, export_weights, import_weights
from rrsr_jax.weights.download import URLS, fetch, sha256


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; bad input ends with a message and exit status 2."""
    options = _parser().parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator belongs to the runs
    logging.set_verbosity(logging.ERROR)  # Orbax tells a lot
    try:
        if options.command == "fetch":
            file = fetch(options.url or URLS[options.name], options.out, options.sha256)
            print(f"{file}: SHA-256 {sha256(file)}\nnext, with PyTorch (pip install 'rrsr_jax[torch]'):")
            print(f"  --config.weights.{_MODULES[options.name]}={file}, or to need PyTorch only once:")
            print(
                f"  python -m rrsr_jax.weights import --kind={options.name} --source={file} --out={file.with_suffix('')}"
            )
        elif options.command == "import":
            import_weights(options.kind, options.source, options.out)
        else:
            export_weights(options.kind, options.source, options.out, options.overwrite)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; a .part file of a download is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fetch", help="download published weights")
    command.add_argument("name", choices=URLS)
    command.add_argument("--out", default=".", metavar="PATH", help="file, or folder for it (default: this one)")
    command.add_argument("--url", help="another address of the file")
    command.add_argument("--sha256", metavar="HEX", help="where the file's name has none; at least 8 digits")
    command = commands.add_parser("import", help="make a folder for config.weights of a PyTorch-layout file")
    command.add_argument("--kind", required=True, choices=PARTS)
    command.add_argument("--source", required=True, metavar="FILE")
    command.add_argument("--out", required=True, metavar="DIR")
    command = commands.add_parser("export", help="make a PyTorch-layout file of an imported folder or a run")
    command.add_argument("--kind", required=True, choices=PARTS)
    command.add_argument("--source", required=True, metavar="DIR")
    command.add_argument("--out", required=True, metavar="FILE.safetensors")
    command.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


if __name__ == "__main__":
    main()
