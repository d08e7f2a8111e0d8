"""The reciprocal step: losses, rates, frozen parts, devices, traces."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rrsr_jax.training import step as steps
from rrsr_jax.training.passes import make_train_step, reciprocal_terms
from rrsr_jax.workdir.state import eval_params, parameter_names
from tests.helpers import TRACES, Convolution, batch, tiny_config, tiny_rrsr


def start(config, devices=1, model=None):
    model = model or Convolution()
    mesh = steps.make_mesh(jax.devices()[:devices])
    images = batch(1)
    shown = (steps.to_float(jnp.asarray(images[k])) for k in ("lr", "ref"))
    params = jax.jit(lambda *a: model.init(*a)["params"])(jax.random.key(0), *shown)
    return steps.place(steps.create_state(config, params), mesh), make_train_step(model, config, mesh)


def test_loss_is_the_weighted_sum_of_both_passes():
    config = tiny_config(loss__rec=0.7, loss__rtrr=0.3)
    state, train_step = start(config)
    images = {k: v / np.float32(255) for k, v in batch().items()}
    sr = Convolution().apply({"params": state.generator}, images["lr"], images["ref"])
    sr_p = Convolution().apply({"params": state.generator}, images["ref_lr_p"], sr)
    rec, rtrr = np.abs(images["hr"] - sr).mean(), np.abs(images["ref_p"] - sr_p).mean()
    _, metrics = train_step(state, batch())
    np.testing.assert_allclose(metrics["rec"], rec, rtol=1e-5)
    np.testing.assert_allclose(metrics["rtrr"], rtrr, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.7 * rec + 0.3 * rtrr, rtol=1e-5)


def test_second_pass_teaches_the_first():
    """With the reciprocal term alone, the gradient of sr as the reference is what is left of the first pass."""

    def gradient(detach):
        images = {k: steps.to_float(jnp.asarray(v)) for k, v in batch().items()}
        params = Convolution().init(jax.random.key(0), images["lr"], images["ref"])["params"]

        def loss(params):
            first = []

            def refsr(lr, ref):
                out = Convolution().apply({"params": params}, lr, ref)
                first.append(out)
                return jax.lax.stop_gradient(out) if detach and len(first) == 1 else out

            return reciprocal_terms(refsr, images, {"rec": 0.0, "rtrr": 1.0})["rtrr"]

        return jax.grad(loss)(params)["tail"]["kernel"]

    assert np.abs(gradient(detach=False) - gradient(detach=True)).max() > 1e-4


def test_any_model_trains_reciprocally():
    """Ten lines of model through the real step: both passes teach it, and both of its losses fall."""
    state, train_step = start(tiny_config(learning_rates__default=3e-3, learning_rates__vgg=3e-3))
    images, history = batch(), []

    def rtrr(lr):
        refsr = functools.partial(Convolution().apply, {"params": state.generator})
        given = {k: steps.to_float(jnp.asarray(v)) for k, v in images.items()} | {"lr": lr}
        return reciprocal_terms(refsr, given, {"rec": 0.0, "rtrr": 1.0})["rtrr"]

    # Only the first pass sees `lr`: the gradient of the second one's loss has come through both.
    assert np.abs(jax.grad(rtrr)(images["lr"] / np.float32(255))).max() > 1e-6
    for _ in range(30):
        state, metrics = train_step(state, images)
        history.append({name: float(value) for name, value in metrics.items()})
    assert all(history[-1][name] < 0.9 * history[0][name] for name in ("rec", "rtrr", "loss"))


def test_terms_of_weight_zero_are_left_out():
    state, train_step = start(tiny_config(loss__rtrr=0.0))
    images = {k: v for k, v in batch().items() if k in ("lr", "hr", "ref")}
    _, metrics = train_step(state, images)
    assert set(metrics) == {"rec", "loss", "grad_norm", "largest_gradient", "finite"}
    np.testing.assert_allclose(metrics["rec"], metrics["loss"])


def test_without_warp_the_term_is_still_computable():
    images = batch()
    images |= {"ref_p": images["ref"]}
    state, train_step = start(tiny_config())
    _, metrics = train_step(state, images)
    assert 0 < float(metrics["rtrr"]) < 1
    assert metrics["finite"]


def test_every_module_moves_at_its_own_rate():
    rates = dict(default=1e-2, vgg=0.0, offset_1x=1e-6, offset_2x=1e-5, offset_4x=1e-4)
    state, train_step = start(tiny_config(**{f"learning_rates__{k}": v for k, v in rates.items()}))
    before = jax.tree.map(np.array, state.generator)
    state, _ = train_step(state, batch())
    moved = jax.tree.map(lambda a, b: float(np.abs(a.astype(np.float64) - b).max()), before, dict(state.generator))
    # Adam's first update has the size of the rate.
    for module, leaves in moved.items():
        expected = rates.get(module, rates["default"])
        np.testing.assert_allclose(leaves["kernel"], expected, rtol=0.1, err_msg=module)


def test_rates_of_rrsr_by_scale():
    params = jax.eval_shape(tiny_rrsr().init, jax.random.key(0), *(jnp.zeros((1, n, n, 3)) for n in (3, 12)))["params"]
    named = {"default": 5, "offset_1x": 1, "offset_2x": 2, "offset_4x": 4, "vgg": 0, "correspondence": 0}
    rates = steps.parameter_rates(params, named)
    for path, rate in rates.items():
        if path.startswith(("vgg/", "correspondence/")):
            assert rate == 0, path
        elif "/align/offset_" in path:
            assert rate == int(path[4]), path  # fas_1x_0, fas_2x_0, ...
        else:
            assert rate == 5, path
    assert sum("/align/offset_2x/" in path for path in rates) == 2 * 6


def test_frozen_parameters_of_rrsr_do_not_move():
    state, train_step = start(tiny_config(learning_rates__vgg=0.0), model=tiny_rrsr())
    before = jax.tree.map(np.array, state.generator)
    for seed in range(2):
        state, _ = train_step(state, batch(2, seed))
    for name, a in traverse_util.flatten_dict(before, sep="/").items():
        b = traverse_util.flatten_dict(dict(state.generator), sep="/")[name]
        if name.split("/")[0] in ("vgg", "correspondence"):
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            assert (a != b).any(), name


def test_rates_decay_together():
    config = tiny_config(decay_steps=(2,), decay_factor=0.1, learning_rates__default=1e-3)
    state, train_step = start(config)
    sizes = []
    for _ in range(3):
        before = np.array(state.generator["tail"]["bias"])
        state, _ = train_step(state, batch())
        sizes.append(np.abs(np.array(state.generator["tail"]["bias"]) - before).max())
    np.testing.assert_allclose(sizes, [1e-3, 1e-3, 1e-4], rtol=0.1)
    assert steps.make_decay(tiny_config(decay_steps=()))(9) == 1


def test_cosine_falls_to_zero_and_stays():
    config = tiny_config(schedule="cosine", decay_steps=(4,), learning_rates__default=1e-3)
    np.testing.assert_allclose(
        [steps.make_decay(config)(i) for i in (0, 1, 2, 4, 9)], [1, 0.853553, 0.5, 0, 0], atol=1e-6
    )
    state, train_step = start(config)
    sizes = []
    for _ in range(5):
        before = np.array(state.generator["tail"]["bias"])
        state, _ = train_step(state, batch())
        sizes.append(np.abs(np.array(state.generator["tail"]["bias"]) - before).max())
    np.testing.assert_allclose(sizes, [1e-3, 8.5e-4, 5e-4, 1.5e-4, 0], rtol=0.1, atol=1e-9)


def test_moving_average():
    state, train_step = start(tiny_config(ema_decay=0.9))
    expected = np.array(state.generator["tail"]["kernel"])
    for seed in range(3):
        state, _ = train_step(state, batch(seed=seed))
        expected = 0.9 * expected + 0.1 * np.array(state.generator["tail"]["kernel"])
    np.testing.assert_allclose(eval_params(state)["tail"]["kernel"], expected, rtol=1e-5)
    off, _ = start(tiny_config())
    assert eval_params(off) is off.generator


class RootOfZero(Convolution):
    """Its result is finite, and so are all gradients but that of `root`: half of 0 ** -0.5, times 0."""

    @nn.compact
    def __call__(self, lr, ref):
        zero = self.param("root", nn.initializers.zeros, ())
        return super().__call__(lr, ref) + jnp.where(zero > 0, jnp.sqrt(zero), 0.0)


def test_one_gradient_that_is_not_finite_is_found():
    state, train_step = start(tiny_config(learning_rates__vgg=0.0), model=RootOfZero())
    names = sorted(traverse_util.flatten_dict(state.generator, sep="/"))
    assert names.index("root") not in (0, len(names) - 1)
    state, metrics = train_step(state, batch())
    assert np.isfinite(metrics["loss"])
    assert np.isnan(metrics["grad_norm"])
    assert not metrics["finite"]
    assert names[int(metrics["largest_gradient"])] == "root"


def test_the_largest_gradient_is_found():
    """Through Adam's first moment, which is a tenth of the first gradient."""
    state, train_step = start(tiny_config(learning_rates__vgg=0.0))
    state, metrics = train_step(state, batch())
    norms = {name: np.linalg.norm(moment) / 0.1 for name, moment in state.opt_state["generator"][0].mu.items()}
    largest = max(norms, key=norms.get)
    assert parameter_names(state)[int(metrics["largest_gradient"])] == largest
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(list(norms.values())), rtol=1e-5)
    values = {"b": [3.0, 4.0], "a": [4.5, 0.0], "d": [-np.inf, 0.0], "e": [np.nan, 0.0]}
    gradient, everything = {name: jnp.array(value) for name, value in values.items()}, dict.fromkeys("edcba", 0)
    state = state.replace(generator=everything)
    places = [int(steps.largest_gradient(dict(list(gradient.items())[:n]), state)) for n in (1, 2, 3, 4)]
    assert places == [1, 1, 3, 4]


def test_one_trace_for_a_whole_run():
    state, train_step = start(tiny_config())
    TRACES.clear()
    before = state.generator["tail"]["kernel"]
    for seed in range(4):
        state, _ = train_step(state, batch(seed=seed))
    assert before.is_deleted()  # donated
    assert len(TRACES) == 2  # the two passes, once
    assert int(state.step) == 4


def test_the_kernels_work_within_each_share_of_the_batch(on_cuda):
    """Lowered for two GPUs: a kernel per alignment, pass and direction, on a device's own images."""
    config, model = tiny_config(), tiny_rrsr()
    mesh = jax.sharding.get_abstract_mesh()
    shown = [jax.ShapeDtypeStruct((1, s, s, 3), jnp.float32) for s in (8, 32)]
    params = jax.eval_shape(model.init, jax.random.key(0), *shown)["params"]
    state = jax.eval_shape(functools.partial(steps.create_state, config), params)
    lowered = make_train_step(model, config, mesh).trace(state, batch(4)).lower(lowering_platforms=("cuda",))
    assert on_cuda(lowered) == {"forward": 8, "data": 8, "weight": 8}
    calls = [line for line in lowered.as_text().splitlines() if "deform_conv_forward_kernel" in line]
    features = 32 * 32 * 4  # of an image at the 4x scale
    assert any(f"tensor<{2 * features}xf32>" in line for line in calls)
    assert not any(f"tensor<{4 * features}xf32>" in line for line in calls)
