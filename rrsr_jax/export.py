"""Writes a network with its weights as one function that needs JAX alone (StableHLO, by `jax.export`).

python -m rrsr_jax.export --weights photo --out photo.jaxexport [--dtype uint8] [--size HxW --ref-size HxW] [--platforms cpu]

The function is `sr = f(lr, ref)`, with `lr` (h, w, 3), `ref` (H, W, 3), and `sr` (4h, 4w, 3). They are float32 in [0, 1], with
`sr` not clipped, or uint8. To call it:

    import jax, numpy, pathlib
    f = jax.export.deserialize(bytearray(pathlib.Path("photo.jaxexport").read_bytes())).call
    sr = numpy.asarray(f(lr, ref))

It takes images of any size from 16 x 16 (`lr`) and 64 x 64 (`ref`), and is compiled for each pair of sizes at its first call.
With `--size` and `--ref-size` it takes images of these sizes only.
"""

import argparse
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export

from rrsr_jax.console import exit_on_error
from rrsr_jax.errors import InputError
from rrsr_jax.weights import released
from rrsr_jax.workdir.files import write_atomically

PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = ("float32", "uint8")
SMALLEST_LR, SMALLEST_REF = 16, 64  # pixels a side, if sizes are symbolic

Size = tuple[int, int]  # height, width


@exit_on_error(interrupted="no unfinished file is left")
def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Bad input ends with a message and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="photo", help="name of weights, their folder, or the folder of a run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the images (default: float32 in [0, 1])")
    parser.add_argument("--size", type=_size, metavar="HxW", help="of lr, in pixels (default: any)")
    parser.add_argument("--ref-size", type=_size, metavar="HxW", help="of ref, in pixels (default: any)")
    parser.add_argument("--platforms", nargs="+", choices=PLATFORMS, default=PLATFORMS, help="(default: all)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    options = parser.parse_args(argv)
    if (options.size is None) != (options.ref_size is None):
        parser.error("--size and --ref-size: both or none expected, got one")
    _check_target(options.out, options.force)
    loaded = released.load(options.weights)
    sizes = None if options.size is None else (options.size, options.ref_size)
    exported = export_network(
        loaded.model, loaded.params, sizes=sizes, dtype=options.dtype, platforms=options.platforms
    )
    content = exported.serialize(vjp_order=0)
    write_atomically(options.out, content)
    print(f"{options.out}: {loaded.name}, {signature(exported)}, for {', '.join(exported.platforms)}")
    print(f"{len(content) / 1e6:.1f} MB; call it with jax.export.deserialize(FILE_CONTENT).call(lr, ref)")


def export_network(
    model: nn.Module,
    params: Any,
    *,
    sizes: tuple[Size, Size] | None = None,
    dtype: str = "float32",
    platforms: Sequence[str] = PLATFORMS,
) -> export.Exported:
    """The network as one function of two images, with its parameters inside.

    Args:
      model: a network, called as `model.apply({"params": params}, lr, ref)`; see `rrsr_jax.models.contract`.
      params: its parameters.
      sizes: height and width of `lr` and of `ref`; None for any.
      dtype: of the three images. `float32`: in [0, 1], the result not clipped; `uint8`: the result rounded.
      platforms: what the function can run on, of `PLATFORMS`.

    Returns:
      A function of `lr` (h, w, 3) and `ref` (H, W, 3) that returns `sr` (4h, 4w, 3); without gradient.

    Raises:
      InputError: the network needs sizes, or does not take these.
    """
    if "deform_conv" in {field.name for field in dataclasses.fields(model)}:
        model = model.clone(deform_conv="xla")  # the only one that runs on all platforms

    def network(lr, ref):
        if dtype == "uint8":
            lr, ref = (image.astype(jnp.float32) / 255 for image in (lr, ref))
        sr = model.apply({"params": params}, lr[None], ref[None])[0]
        return jnp.round(jnp.clip(sr, 0, 1) * 255).astype(jnp.uint8) if dtype == "uint8" else sr

    lr, ref = (jax.ShapeDtypeStruct((*size, 3), dtype) for size in sizes or _any_sizes())
    try:
        return export.export(jax.jit(network), platforms=platforms)(lr, ref)
    except ValueError as error:  # the network's own check of its input
        raise InputError(f"{type(model).__name__}, lr {lr.shape}, ref {ref.shape}: {error}") from error
    except (jax.errors.InconclusiveDimensionOperation, TypeError) as error:
        if sizes is not None:
            raise
        raise InputError(
            f"{type(model).__name__} cannot be exported for images of any size ({str(error).splitlines()[0]}); "
            "name the sizes with --size and --ref-size"
        ) from error


def signature(exported: export.Exported) -> str:
    """Shapes and dtypes of the function's arguments and result."""
    lr, ref = (aval.str_short() for aval in exported.in_avals)
    return f"lr {lr}, ref {ref} -> sr {exported.out_avals[0].str_short()}"


def _any_sizes():
    """Symbolic heights and widths of `lr` and `ref`.

    JAX compares products of sizes only if a constraint names the same product. These are the numbers of patches.
    """
    h, w, ref_h, ref_w = export.symbolic_shape("h, w, H, W")
    rows, columns = (((size - 2) // 2 + 1 - 2) // 2 + 1 for size in (ref_h, ref_w))  # of two poolings
    patches = [f"{(y - 2) * (x - 2)} >= 1" for y, x in ((h, w), (rows, columns))]
    smallest = [
        f"{size} >= {least}" for size, least in zip("hwHW", [SMALLEST_LR] * 2 + [SMALLEST_REF] * 2, strict=True)
    ]
    sizes = export.symbolic_shape("h, w, H, W", constraints=[*smallest, *patches])
    return sizes[:2], sizes[2:]


def _size(text: str) -> Size:
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise argparse.ArgumentTypeError(f"height and width in pixels expected, as in 128x96, got {text!r}")
    return int(match[1]), int(match[2])


def _check_target(path: pathlib.Path, force: bool) -> None:
    """Before minutes of work: whether the file can be written."""
    if path.is_dir():
        raise InputError(f"--out: a file expected, got the folder {path}")
    if path.exists() and not force:
        raise InputError(f"--out: {path} exists; add --force to overwrite it, or choose another name")
    if not path.parent.is_dir():
        raise InputError(f"--out: no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--out: {path.parent} cannot be written to; choose another folder")


if __name__ == "__main__":
    main()
