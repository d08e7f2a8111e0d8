"""The GAN stage: order of the updates, what moves and what does not, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from rrsr_jax.errors import InputError
from rrsr_jax.models.discriminator import Discriminator
from rrsr_jax.models.encoders import VGG
from rrsr_jax.training import gan, initial, losses, stages, train
from rrsr_jax.training import step as steps
from rrsr_jax.training.passes import make_train_step
from rrsr_jax.training.super_resolution import SuperResolution
from rrsr_jax.workdir.state import parameter_names
from tests.helpers import SMALL, TRACES, Convolution, batch, gan_config, initial_state, tiny_config


def start(config, devices=1, vgg=None):
    mesh = steps.make_mesh(jax.devices()[:devices])
    model = Convolution()
    key = jax.random.key(1)
    parts = gan._random_discriminator(config, key) if config.loss.adversarial else {}
    if vgg is not None:
        parts["frozen"] = {"perceptual": jax.tree.map(np.array, vgg)}  # the state is donated
    state = steps.place(steps.create_state(config, initial.initialise_model(model, key), **parts), mesh)
    pixel, full = make_train_step(model, config, mesh), gan.make_gan_step(model, config, mesh)
    return state, lambda state, batch: (full if int(state.step) >= config.pixel_steps else pixel)(state, batch)


def copy(state):
    return jax.tree.map(np.array, state)


def floats():
    return {k: steps.to_float(jnp.asarray(v)) for k, v in batch().items()}


def judge(params, stats, images):
    net = Discriminator(**SMALL)
    verdict, moved = net.apply({"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"])
    return verdict, moved["batch_stats"]


def test_two_explicit_updates_give_the_same():
    """First the discriminator, by the images of the generator as it was; then the generator, by the moved discriminator."""
    config = gan_config()
    state, step = start(config)
    before, images = copy(state), floats()
    state, metrics = step(state, batch())

    params, stats = before.generator, before.statistics
    sr = Convolution().apply({"params": params}, images["lr"], images["ref"])
    alpha = jax.random.uniform(jax.random.fold_in(jax.random.key(config.seed), 0), (4, 1, 1, 1))

    def discriminator_loss(discriminator):
        real, moved = judge(discriminator, stats, images["hr"])
        fake, moved = judge(discriminator, moved, sr)
        penalty, _ = losses.gradient_penalty(lambda x: judge(discriminator, moved, x)[0], images["hr"], sr, alpha)
        return fake.mean() - real.mean() + 10 * penalty, moved

    gradient, moved = jax.jit(jax.grad(discriminator_loss, has_aux=True))(before.discriminator)
    gradients = {"discriminator": gradient}
    adam = optax.adam(1e-2, 0.9, 0.999)
    updates, _ = adam.update(gradient, adam.init(gradient))
    discriminator = optax.apply_updates(before.discriminator, updates)

    def generator_loss(params):
        sr = Convolution().apply({"params": params}, images["lr"], images["ref"])
        sr_p = Convolution().apply({"params": params}, images["ref_lr_p"], sr)
        rec, rtrr = losses.l1(images["hr"], sr), losses.l1(images["ref_p"], sr_p)
        return rec + 0.4 * rtrr - 0.5 * judge(discriminator, moved, sr)[0].mean()

    loss, gradient = jax.jit(jax.value_and_grad(generator_loss))(params)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    gradients |= {name: value for name, value in gradient.items() if name != "vgg"}
    norms = {name: np.linalg.norm(value) for name, value in traverse_util.flatten_dict(gradients, sep="/").items()}
    assert parameter_names(state)[int(metrics["largest_gradient"])] == max(norms, key=norms.get)
    np.testing.assert_allclose(
        metrics["grad_norm"], optax.tree.norm({k: v for k, v in gradient.items() if k != "vgg"}), rtol=1e-3
    )
    for name, leaves in discriminator.items():
        for leaf in leaves:
            if "conv" in name and leaf == "bias":  # normalisation takes it out again: its gradient is noise
                continue
            got = state.discriminator[name][leaf]
            np.testing.assert_allclose(got, leaves[leaf], atol=1e-4, err_msg=f"{name}/{leaf}")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), dict(state.statistics), moved)
    updates, _ = adam.update(gradient["tail"], adam.init(gradient["tail"]))
    expected = optax.apply_updates(params["tail"], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), dict(state.generator["tail"]), expected)


def test_the_discriminator_learns_to_tell_real_from_fake_and_the_generator_to_please_it():
    config = gan_config(penalty=0.1, learning_rates__default=0.0, learning_rates__offset_1x=1e-12)
    state, step = start(config)
    verdicts = []
    for _ in range(40):
        state, metrics = step(state, batch())
        verdicts.append(float(metrics["real"] - metrics["fake"]))
    assert verdicts[-1] > verdicts[0] + 0.05
    config = gan_config(loss__rec=0.0, loss__rtrr=0.0, learning_rates__discriminator=1e-12, loss__adversarial=1.0)
    state, step = start(config)
    terms = []
    for _ in range(20):
        state, metrics = step(state, batch())
        terms.append(float(metrics["adversarial"]))
    assert terms[-1] < terms[0]


def test_the_generator_runs_forward_once():
    state, step = start(gan_config())
    TRACES.clear()
    for seed in range(3):
        state, _ = step(state, batch(seed=seed))
    assert len(TRACES) == 2  # the two passes
    state, step = start(gan_config(loss__rtrr=0.0))
    TRACES.clear()
    step(state, batch())
    assert len(TRACES) == 1


def test_pixels_alone_come_first():
    config = gan_config(pixel_steps=2)
    state, step = start(config)
    before = copy(state)
    for _ in range(2):
        state, metrics = step(state, batch())
        assert set(metrics) == {"rec", "rtrr", "loss", "grad_norm", "largest_gradient", "finite"}
    after = copy(state)
    jax.tree.map(np.testing.assert_array_equal, before.discriminator, after.discriminator)
    jax.tree.map(np.testing.assert_array_equal, before.opt_state["discriminator"], after.opt_state["discriminator"])
    state, metrics = step(state, batch())
    assert {"adversarial", "real", "fake", "penalty"} < set(metrics)
    assert (np.array(state.discriminator["head1"]["kernel"]) != after.discriminator["head1"]["kernel"]).any()
    assert int(state.step) == 3


def test_pixel_steps_are_those_of_the_rec_stage():
    config = gan_config(pixel_steps=9, eval__sets="", model__features=8, model__groups=2)
    stage = stages.build(config, steps.make_mesh(jax.devices()[:1]))
    rec = SuperResolution.step(stage, 0)
    assert [stage.step(number) is rec for number in (0, 8, 9, 10)] == [True, True, False, False]


def test_discriminator_decays_at_the_step_of_the_run():
    config = gan_config(pixel_steps=1, decay_steps=(2,), decay_factor=0.1)
    state, step = start(config)
    sizes = []
    for _ in range(4):
        before = np.array(state.discriminator["head2"]["kernel"])
        state, _ = step(state, batch())
        sizes.append(np.abs(np.array(state.discriminator["head2"]["kernel"]) - before).max())
    np.testing.assert_allclose(sizes[:3], [0, 1e-2, 1e-3], rtol=0.1)


def random_vgg():
    return jax.jit(VGG("relu5_1").init)(jax.random.key(3), jnp.zeros((1, 16, 16, 3)))["params"]


def test_perceptual_term():
    vgg = random_vgg()
    state, step = start(gan_config(loss__perceptual=0.25, loss__adversarial=0.0, loss__rtrr=0.0), vgg=vgg)
    images, params = floats(), copy(state.generator)
    state, metrics = step(state, batch())
    sr = Convolution().apply({"params": params}, images["lr"], images["ref"])
    a, b = (VGG("relu5_1").apply({"params": vgg}, image)["relu5_1"] for image in (sr, images["hr"]))
    np.testing.assert_allclose(metrics["perceptual"], np.linalg.norm((a - b).ravel()), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], metrics["rec"] + 0.25 * metrics["perceptual"], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, vgg, dict(state.frozen["perceptual"]))


def test_perceptual_term_refuses_to_run_untrained():
    with pytest.raises(InputError, match=r"config\.weights\.vgg is empty: the perceptual loss needs VGG-19's weights"):
        initial_state(gan_config(loss__perceptual=1e-4, eval__sets=""))
    assert gan.gan_parts(gan_config(loss__adversarial=0.0), Convolution()) == {"frozen": {}}


def test_discriminator_from_weights(tmp_path, state_dict):
    np.savez(tmp_path / "d.npz", **state_dict("c2_discriminator"))
    config = gan_config(weights__discriminator=str(tmp_path / "d.npz"))
    config.discriminator.update(features=(32, 64, 128, 256, 512), head=1024)
    params = gan.gan_parts(config, Convolution())
    kernel = state_dict("c2_discriminator")["conv_block1.0.weight"]
    np.testing.assert_array_equal(params["discriminator"]["block1_conv1"]["kernel"], kernel.transpose(2, 3, 1, 0))
    config.discriminator.update(SMALL)
    with pytest.raises(InputError, match=r"config\.weights\.discriminator(.|\n)*do not fit"):
        gan.gan_parts(config, Convolution())


def test_penalty_where_the_discriminator_is_saturated():
    """The slope of a saturated sigmoid is zero; the norm of a gradient of zero must not make its own gradient infinite."""

    def penalty(bias):
        def discriminate(images):
            return jax.nn.sigmoid(images.sum((1, 2, 3)) + bias)

        return losses.gradient_penalty(discriminate, *pair, jnp.full((2, 1, 1, 1), 0.5))[0]

    pair = [jnp.full((2, 4, 4, 3), value) for value in (0.1, 0.2)]
    value, slope = jax.value_and_grad(penalty)(200.0)
    assert (value, slope) == (1, 0)
    assert jax.grad(penalty)(-7.0) != 0


@pytest.mark.parametrize("frozen", ["discriminator", "head1"])
def test_frozen_discriminator(frozen):
    """A rate of 0 freezes the whole of it, or a part."""
    config = gan_config()
    with config.unlocked():
        config.learning_rates[frozen] = 0.0
    state, step = start(config)
    before = copy(state.discriminator)
    names = {"/".join(path) for path in traverse_util.flatten_dict(before)}
    some = [name for name in names if frozen == "discriminator" or frozen in name.split("/")]
    state, metrics = step(state, batch())
    assert np.isfinite(metrics["loss"])
    after = traverse_util.flatten_dict(copy(state.discriminator), sep="/")
    before = traverse_util.flatten_dict(before, sep="/")
    assert some
    for name in names:
        assert (name in some) <= np.array_equal(before[name], after[name]), name
    assert any(not np.array_equal(before[name], after[name]) for name in names) == (frozen != "discriminator")


def test_the_penalty_is_taken_elsewhere_at_every_step():
    config = gan_config()
    mesh = steps.make_mesh(jax.devices()[:1])

    def alpha(step):
        place = functools.partial(gan._between, config, size=4)
        spec = jax.sharding.PartitionSpec()
        return jax.shard_map(place, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(jnp.int32(step))

    first, second = alpha(0), alpha(1)
    assert first.shape == (4, 1, 1, 1)
    assert len({float(a) for a in jnp.concatenate([first, second]).ravel()}) == 8


def test_where_a_gan_can_start_from(tmp_path):
    """From a -rec run it takes the generator, from a GAN run the discriminator too; a -rec run takes the generator of either."""
    changes = dict(batch_size=1, steps=1, pixel_steps=0, eval__sets="", loss__rtrr=0.0)

    def make(base, **more):
        config = base(**(changes | more))
        with config.unlocked():
            config.model = {"name": "srcnn", "features": (4, 4)}
            config.weights = {"discriminator": ""} if config.stage == "gan" else {}
            config.learning_rates = {"default": 1e-3} | ({"discriminator": 1e-3} if config.stage == "gan" else {})
        config.data.update(name="embedded", patch=32, warp_range=(1.0, 4.0), threads=1, prefetch=2)
        return config

    def rec_config(pixel_steps, **more):
        return tiny_config(**more)

    trained = {}
    for name, base, more in (("rec", rec_config, {}), ("gan", gan_config, {"init_from": str(tmp_path / "rec")})):
        train.train_and_evaluate(make(base, **more), str(tmp_path / name))
        trained[name] = train.Checkpoints(tmp_path / name).read_state()
    for name, base in (("rec", gan_config), ("gan", gan_config), ("gan", rec_config)):
        config = make(base, init_from=str(tmp_path / name), seed=7)
        found = initial_state(config)
        assert bool(found.discriminator) == (config.stage == "gan")
        jax.tree.map(np.testing.assert_array_equal, found.generator, trained[name].generator)
        if name == "gan" and config.stage == "gan":
            jax.tree.map(np.testing.assert_array_equal, found.discriminator, trained["gan"].discriminator)
            jax.tree.map(np.testing.assert_array_equal, found.statistics, trained["gan"].statistics)
    fresh = initial_state(make(gan_config, init_from=str(tmp_path / "rec"), seed=7))
    kernels = [state.discriminator["head1"]["kernel"] for state in (fresh, trained["gan"])]
    assert not np.array_equal(*kernels)
