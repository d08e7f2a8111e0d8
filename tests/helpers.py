"""What several test files share: small models and configs, noise, and ways to damage things."""

import contextlib
import functools
import importlib
import pathlib
import resource

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rrsr_jax.data import datasets
from rrsr_jax.errors import InputError
from rrsr_jax.evaluation import protocols
from rrsr_jax.models import matching
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.training import stages
from rrsr_jax.training.step import make_mesh
from rrsr_jax.workdir.progress import read_records
from tests.golden import recipe

GOLDEN = pathlib.Path(__file__).parent / "golden"


ROOT = pathlib.Path(__file__).parent.parent  # of the project
CONFIG_FILES = {
    path.stem: importlib.import_module(f"configs.{path.stem}") for path in sorted((ROOT / "configs").glob("*.py"))
}
# Every config, `FILE` or `FILE:ROW`, without folder and ending.
CONFIGS = [
    name
    for stem, file in CONFIG_FILES.items()
    for name in [f"{stem}:{row}" for row in getattr(file, "ROWS", ())] or [stem]
]


VGG_OF_RRSR = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")


SMALL = dict(features=(4, 5), head=6)


TRACES = []


def get_config(name):
    """One of `CONFIGS`."""
    stem, *row = name.split(":")
    return CONFIG_FILES[stem].get_config(*row)


def relative_error(got, expected) -> float:
    """|got - expected| / |expected|, in float64."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, f"{got.shape} != {expected.shape}"
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


# Compiled without optimisation, for functions that run once or twice.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def as_float(arrays):
    """Golden arrays, with images of 8 bits in [0, 1]."""
    return {k: jnp.asarray(v, jnp.float32) / 255 if v.dtype == np.uint8 else v for k, v in arrays.items()}


def images(*shapes, seed=0):
    """Noise with the values of 8-bit images, (N, H, W, 3) in [0, 1], for each (N, H, W)."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.integers(0, 256, (*shape, 3)) / 255, jnp.float32) for shape in shapes]


def batch(n=4, seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"lr": 8, "hr": 32, "ref": 32, "ref_p": 32, "ref_lr_p": 8}
    return {k: rng.integers(0, 256, (n, s, s, 3), dtype=np.uint8) for k, s in sizes.items()}


def noise(height=24, width=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(folder, images):
    """`images`: {relative path: array or file content}."""
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            Image.fromarray(image).save(path)
    return folder


def damage(data_dir, name):
    """Flips one byte of the records, so that one of them, neither the first nor the last, can no longer be read: its index."""
    (path,) = (data_dir / name).rglob("*array_record*")
    whole = path.read_bytes()
    for place in np.linspace(0.3, 0.7, 20) * len(whole):
        raw = bytearray(whole)
        raw[int(place)] ^= 0xFF
        path.write_bytes(raw)
        try:
            prepared, bad = datasets.Prepared(name, str(data_dir)), []
        except InputError:
            continue
        for index in range(len(prepared)):
            try:
                prepared[index]
            except InputError:
                bad.append(index)
        if len(bad) == 1 and 0 < bad[0] < len(prepared) - 1:
            return bad[0]
    raise AssertionError("no such byte")


def grey(value, height=40, width=36):
    return np.full((height, width, 3), value, np.uint8)


def open_set(data_dir, name, **changes):
    """A prepared test set, with the `eval` part of the paper's config and `changes` to it."""
    config = get_config("cufed5").eval
    config.update(dir=str(data_dir), **changes)
    return protocols.TestSet(name, config)


def nearest(lr, ref, valid):
    """An upscaler that shows which input it got."""
    return lr.repeat(4, 0).repeat(4, 1)


def lines(workdir, kind="train/"):
    """The records of `metrics.jsonl`, of training or of evaluation."""
    return [record for record in read_records(pathlib.Path(workdir)) if any(name.startswith(kind) for name in record)]


def finish(process, timeout=300):
    """Exit status, standard output and standard error of a process that ends."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@contextlib.contextmanager
def largest_file(size):
    """Files cannot grow beyond `size` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def random_params(model):
    """Parameters with which everything, biases included, has a say; without compiling `model.init`."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *images((1, 3, 3), (1, 12, 12)))["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        scale = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        value = (scale * rng.standard_normal(leaf.shape)).astype(np.float32)
        return 1 + np.abs(value) if path[-1].key == "var" else value

    return jax.tree.map_with_path(draw, shapes)


def tiny_rrsr(**changes):
    """An RRSR with every part of the full one that compiles in seconds."""
    fields = dict(
        features=8,
        context_blocks=1,
        alignments=(1, 2, 1),
        blocks=(1, 1, 1),
        experts=2,
        groups=2,
        vgg_channels=(4, 6, 8),
        correspondence_channels=(4, 6, 8),
    )
    return RRSR(**{**fields, **changes})


def tiny_config(**changes):
    """The demo's config, shrunk to `tiny_rrsr` and a few steps; `changes` by dotted name (`data__patch`: `data.patch`)."""
    config = get_config("demo")
    config.model.update({k: getattr(tiny_rrsr(), k) for k in config.model if k != "name"})
    config.data.update(patch=32, warp_range=(1.0, 4.0))
    config.eval.update(crops=2, patch=48, sheets=1)
    config.update(batch_size=2, steps=3, log_every=1, image_every=2, checkpoint_every=2)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def initial_state(config):
    """The state that a run of the config starts with, on one device."""
    return stages.build(config, make_mesh(jax.devices()[:1])).initial_state()


def gan_config(**changes):
    """The published stage with a small discriminator, weights that let every term be felt, and no VGG."""
    config = get_config("cufed5_gan")
    config.discriminator.update(SMALL)
    config.loss.update(rec=1.0, rtrr=0.4, perceptual=0.0, adversarial=0.5)
    config.learning_rates.update(default=1e-2, discriminator=1e-2)
    config.update(pixel_steps=0, penalty=10.0, decay_steps=())
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


class Convolution(nn.Module):
    """A RefSR model in ten lines, with the module names that have their own rates."""

    @nn.compact
    def __call__(self, lr, ref):
        TRACES.append(lr.shape)
        size = (lr.shape[0], 4 * lr.shape[1], 4 * lr.shape[2], 3)
        up, ref = jax.image.resize(lr, size, "linear"), jax.image.resize(ref, size, "linear")
        x = nn.tanh(nn.Conv(6, (3, 3), name="vgg")(jnp.concatenate([up, ref], -1)))
        x = sum(nn.Conv(6, (3, 3), name=f"offset_{scale}x")(x) for scale in (1, 2, 4))
        return up + nn.Conv(3, (3, 3), name="tail")(x)


def any_bits(kind):
    """A state dict with every kind of float32: NaNs with payloads, infinities, -0.0, denormals."""
    rng = np.random.default_rng(0)
    state = {k: rng.integers(0, 2**32, shape, np.uint32).view(np.float32) for k, shape in recipe.KEYS[kind].items()}
    first = next(iter(state.values())).reshape(-1)
    first[:4] = np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
    return state


def check_offsets(index, ref_width, expected):
    flow = matching.flow_from_match(index, ref_width)
    for scale, name in ((1, "relu3_1"), (2, "relu2_1"), (4, "relu1_1")):
        got = matching.pre_offsets(flow, scale).transpose(0, 3, 1, 2, 4)[..., ::-1]  # golden: tap first, (x, y)
        np.testing.assert_array_equal(got, expected[f"pre_offset_{name}"])
