"""Downloads, imports and exports weights. Nothing that a file contains is ever executed.

python -m rrsr_jax.weights fetch NAME [--out=PATH] [--url=URL] [--sha256=HEX]
python -m rrsr_jax.weights import --kind=KIND --source FILE [FILE ...] --out=DIR
python -m rrsr_jax.weights export --kind=KIND --source=DIR --out=FILE.safetensors [--overwrite]
python -m rrsr_jax.weights pack --run=WORKDIR --card=CARD.md --out=FOLDER [--license=FILE] [--raw] [--overwrite]

`fetch` downloads a network that torchvision publishes. `import` checks a PyTorch-layout FILE (.safetensors, .npz, or .pth and
.pt, which need PyTorch) and converts it to a folder for `config.weights`. `export` converts such a folder, or the newest
checkpoint in the workdir of a run, to a PyTorch-layout file. `pack` writes the newest checkpoint of a run as a folder that
`python -m rrsr_jax.upscale --weights=FOLDER` takes: float16 weights, the model's config, a card that says what they are, and a
licence.
"""

import argparse
from collections.abc import Sequence

import jax
from absl import logging

from rrsr_jax.console import exit_on_error
from rrsr_jax.weights import KINDS, export_weights, import_weights
from rrsr_jax.weights.download import fetch, sha256
from rrsr_jax.weights.kinds import find
from rrsr_jax.weights.released import pack


@exit_on_error(interrupted="the .part file of a download is kept, and the same command resumes it")
def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; bad input ends with a message and exit status 2."""
    options = _parser().parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # leaves the accelerator to running experiments
    logging.set_verbosity(logging.ERROR)  # Orbax is verbose
    if options.command == "fetch":
        kind = find(options.name)
        file = fetch(options.url or kind.url, options.out, options.sha256)
        print(f"{file}: SHA-256 {sha256(file)}\nnext, with PyTorch (pip install 'rrsr_jax[torch]'):")
        print(f"  --config.weights.{kind.setting}={file}, or to need PyTorch only once:")
        print(f"  python -m rrsr_jax.weights import --kind={kind.name} --source={file} --out={file.with_suffix('')}")
    elif options.command == "import":
        import_weights(options.kind, options.source, options.out)
    elif options.command == "pack":
        run, out, card = options.run, options.out, options.card
        pack(run, out, card, license=options.license, raw=options.raw, overwrite=options.overwrite)
    else:
        export_weights(options.kind, options.source, options.out, options.overwrite)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.weights",
        description=__doc__,
        epilog=f"KIND: {', '.join(kind.name for kind in KINDS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = [kind.name for kind in KINDS]
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fetch", help="download published weights")
    command.add_argument("name", choices=[kind.name for kind in KINDS if kind.url])
    command.add_argument("--out", default=".", metavar="PATH", help="file or folder to write (default: this folder)")
    command.add_argument("--url", help="another address of the file")
    command.add_argument("--sha256", metavar="HEX", help="at least 8 digits; needed if the file's name has none")
    command = commands.add_parser("import", help="convert a PyTorch-layout file to a folder for config.weights")
    command.add_argument("--kind", required=True, choices=kinds)
    command.add_argument("--source", required=True, nargs="+", metavar="FILE", help="several where a network has parts")
    command.add_argument("--out", required=True, metavar="DIR")
    command = commands.add_parser("export", help="convert an imported folder or a run to a PyTorch-layout file")
    command.add_argument("--kind", required=True, choices=kinds)
    command.add_argument("--source", required=True, metavar="DIR")
    command.add_argument("--out", required=True, metavar="FILE.safetensors")
    command.add_argument("--overwrite", action="store_true", help="replace an existing file")
    command = commands.add_parser("pack", help="write a run's newest checkpoint as a folder for upscaling")
    command.add_argument("--run", required=True, metavar="WORKDIR")
    command.add_argument("--card", required=True, metavar="CARD.md", help="what the weights are; becomes README.md")
    command.add_argument("--out", required=True, metavar="FOLDER")
    command.add_argument("--license", default="", metavar="FILE", help="default: the licence of this program")
    command.add_argument("--raw", action="store_true", help="the parameters themselves, not their moving average")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder of weights")
    return parser


if __name__ == "__main__":
    main()
