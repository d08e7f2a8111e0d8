"""What a model does in training that it does not in a test: statistics of the batch, random numbers, terms of its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrsr_jax.models.layers import BatchNorm
from rrsr_jax.training import step as steps
from rrsr_jax.training.passes import PIXEL_LOSSES, make_train_step
from rrsr_jax.workdir.state import eval_params
from tests.helpers import batch, tiny_config


class Normalised(nn.Module):
    """A model with all of it."""

    axis_name: str | None = None
    generators = ("noise",)

    @nn.compact
    def __call__(self, lr, ref, train=False):
        size = (len(lr), 4 * lr.shape[1], 4 * lr.shape[2], 3)
        x = jnp.concatenate([jax.image.resize(lr, size, "nearest"), ref], -1)
        x = BatchNorm(in_params=True, axis_name=self.axis_name, name="norm")(nn.Dense(4, name="conv")(x), train)
        self.sow("intermediates", "upscale", nn.Dense(3, name="early")(x))
        noise = jax.random.normal(self.make_rng("noise"), (1, 1, 1, 4)) if train else jnp.ones((1, 1, 1, 4))
        return nn.Dense(3, name="late")(nn.tanh(x) + 0.1 * noise)


def start(devices=1, **changes):
    config = tiny_config(**changes)
    with config.unlocked():
        config.loss.upscale = 0.3
    mesh = steps.make_mesh(jax.devices()[:devices])
    images = floats()
    params = Normalised().init(jax.random.key(0), images["lr"], images["ref"])["params"]
    return config, steps.place(steps.create_state(config, params), mesh), make_train_step(Normalised(), config, mesh)


def floats():
    return {name: jnp.float32(image) / 255 for name, image in batch().items()}


def test_a_step_by_hand():
    """Both passes normalise by their own statistics and draw their own numbers, and the running ones take both in turn."""
    config, state, train_step = start(learning_rates__default=1e-2, ema_decay=0.5)
    before, images = jax.tree.map(np.array, state.generator), floats()
    key = jax.random.fold_in(jax.random.key(config.seed), 0)

    def call(params, lr, ref, number):
        (inner,) = jax.random.split(jax.random.fold_in(key, number), 1)
        collections = ["batch_stats", "intermediates"]
        sr, more = Normalised().apply(
            {"params": params}, lr, ref, train=True, rngs={"noise": inner}, mutable=collections
        )
        return sr, more["intermediates"]["upscale"][0], more["batch_stats"]["norm"]

    def loss(params):
        sr, upscale, running = call(params, images["lr"], images["ref"], 0)
        sr_p, _, running = call(params | {"norm": params["norm"] | running}, images["ref_lr_p"], sr, 1)
        pairs = {"rec": ("hr", sr), "rtrr": ("ref_p", sr_p), "upscale": ("hr", upscale)}
        terms = {name: jnp.abs(images[a] - b).mean() for name, (a, b) in pairs.items()}
        return terms["rec"] + 0.4 * terms["rtrr"] + 0.3 * terms["upscale"], (terms, running)

    (total, (terms, running)), gradient = jax.value_and_grad(loss, has_aux=True)(before)
    state, metrics = train_step(state, batch())
    for name, value in {**terms, "loss": total}.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-4)
    for name, value in running.items():
        assert np.any(value != before["norm"][name])
        np.testing.assert_allclose(state.generator["norm"][name], value, rtol=1e-5, err_msg=name)
        # They are not averaged once more.
        np.testing.assert_array_equal(eval_params(state)["norm"][name], state.generator["norm"][name])
    for name in ("early", "late"):  # Adam's first update has the size of the rate
        moved = before[name]["bias"] - 1e-2 * np.sign(gradient[name]["bias"])
        np.testing.assert_allclose(state.generator[name]["bias"], moved, rtol=1e-4, atol=1e-6)


def test_random_numbers_depend_on_seed_and_step():
    def rec(number, seed=0):
        _, state, train_step = start(seed=seed)
        state = state.replace(step=steps.place(jnp.int32(number), steps.make_mesh(jax.devices()[:1])))
        return float(train_step(state, batch())[1]["rec"])

    first = rec(0)
    assert first == rec(0)
    assert len({first, rec(1), rec(0, seed=1)}) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "l1": lambda d: np.abs(d).mean(),
        "mse": lambda d: (d**2).mean(),
        "charbonnier": lambda d: np.sqrt(d**2 + 1e-6).mean(),
    }.items(),
)
def test_the_pixel_loss_is_that_of_the_first_pass_alone(name, value):
    _, state, train_step = start(pixel_loss=name)
    _, plain_state, plain_step = start()
    state, metrics = train_step(state, batch())
    plain_state, plain = plain_step(plain_state, batch())
    np.testing.assert_allclose(metrics["rtrr"], plain["rtrr"], rtol=1e-6)
    np.testing.assert_allclose(metrics["upscale"], plain["upscale"], rtol=1e-6)
    a, b = (floats()[name] for name in ("hr", "ref"))
    np.testing.assert_allclose(PIXEL_LOSSES[name](a, b), value(np.float64(a) - np.float64(b)), rtol=1e-5)
    assert (metrics["rec"] == plain["rec"]) == (name == "l1")


def test_weight_decay_is_added_to_the_gradient():
    """As in PyTorch's Adam, not AdamW: through the first moment, a tenth of the first gradient."""
    _, state, train_step = start(weight_decay=0.5)
    _, plain, plain_step = start()
    before = np.array(state.generator["late"]["kernel"])
    state, _ = train_step(state, batch())
    plain, _ = plain_step(plain, batch())
    with_decay, without = state.opt_state["generator"][1].mu, plain.opt_state["generator"][0].mu
    np.testing.assert_allclose(
        with_decay["late/kernel"], without["late/kernel"] + 0.1 * 0.5 * before, rtol=1e-4, atol=1e-7
    )


def test_cosine_with_restarts():
    decay = steps.make_decay(tiny_config(schedule="cosine_restarts", decay_steps=(4, 10), decay_factor=0.2))
    half = [0.2 + 0.8 * (1 + np.cos(np.pi * t)) / 2 for t in (0, 0.25, 0.5, 0.75)]
    expected = [*half, 1.0, 0.2 + 0.8 * (1 + np.cos(np.pi / 6)) / 2, 0.2, 0.2]
    np.testing.assert_allclose([decay(i) for i in (0, 1, 2, 3, 4, 5, 10, 99)], expected, rtol=1e-5)
