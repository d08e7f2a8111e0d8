"""Training the correspondence net: losses, what each branch sees, where a stage may start from."""

import functools
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import matcher as matcher_configs
from rrsr_jax.data import pipeline, transforms
from rrsr_jax.data.images import downscale, upscale
from rrsr_jax.errors import InputError
from rrsr_jax.models.correspondence import CorrespondenceNet, correspondences
from rrsr_jax.training import correspondence as matcher
from rrsr_jax.training import initial, losses, train
from rrsr_jax.training import step as steps
from tests.helpers import gan_config, initial_state, random_params, relative_error, tiny_config, tiny_rrsr

CHANNELS = (4, 6, 8)
NET = CorrespondenceNet(CHANNELS)


def stage_config(stage="teacher", **changes):
    config = matcher_configs.get_config(stage)
    config.model.channels = CHANNELS
    config.data.update(name="embedded", patch=80, warp_range=(0.0, 5.0), threads=1, prefetch=2)
    config.eval.update(sets="embedded", crops=2, patch=96)
    config.update(batch_size=2, steps=2, log_every=1, checkpoint_every=2, decay_steps=())
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def fresh(seed):
    return initial.initialise(functools.partial(initial.initialise_model, NET), seed)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Workdirs of a teacher and its student, trained for two steps."""
    root = tmp_path_factory.mktemp("chain")
    train.train_and_evaluate(stage_config(), str(root / "teacher"))
    train.train_and_evaluate(stage_config("student", init_from=str(root / "teacher")), str(root / "student"))
    return root


def unit(descriptors):
    return descriptors / np.maximum(np.linalg.norm(descriptors, axis=-1, keepdims=True), 1e-6)


def test_losses_of_the_authors(golden):
    """The descriptors are stored in half precision, which changes the losses by 6e-6."""
    expected = golden("contrastive")
    names = ("student1", "student2", "teacher1", "teacher2")
    student1, student2, teacher1, teacher2 = (unit(expected[name].astype(np.float32)) for name in names)
    warped = expected["transformed_coordinate"][..., ::-1]  # of every fourth pixel
    used = ((warped > 10) & (warped < 150)).all(-1)
    target = np.where(used[..., None], np.round(warped / 4), 0).astype(int)
    triplet = losses.triplet(student1, student2, target, used)
    distillation = losses.distillation((student1, student2), (teacher1, teacher2), target, used)
    assert relative_error(triplet, expected["triplet"]) < 1e-4
    assert relative_error(distillation, expected["distillation"]) < 1e-4
    assert relative_error(triplet + 15 * distillation, expected["total"]) < 1e-4


def small_case(seed=0):
    """Descriptors, targets and use of a batch of 2, 6 x 5 cells."""
    rng = np.random.default_rng(seed)
    first, second = (unit(rng.standard_normal((2, 6, 5, 3)).astype(np.float32)) for _ in range(2))
    target = np.stack([rng.integers(0, 6, (2, 6, 5)), rng.integers(0, 5, (2, 6, 5))], -1)
    return first, second, target, rng.random((2, 6, 5)) < 0.7


def test_triplet_is_its_slow_definition():
    first, second, target, used = small_case()
    means = []
    for n in range(2):
        hinges = []
        places = list(np.argwhere(used[n]))
        for place in places:
            own, at = first[n][tuple(place)], second[n][tuple(target[n][tuple(place)])]
            negatives = [
                2 - 2 * own @ second[n][tuple(target[n][tuple(other)])]
                for other in places
                if np.abs(target[n][tuple(place)] - target[n][tuple(other)]).max() > 2
            ]
            negatives += [
                2 - 2 * at @ first[n, y, x]
                for y in range(6)
                for x in range(5)
                if max(abs(y - place[0]), abs(x - place[1])) > 2
            ]
            hinges.append(max(0, 0.5 + (2 - 2 * own @ at) - min(negatives)))
        means.append(np.mean(hinges))
    got = losses.triplet(first, second, target, used, margin=0.5, safe_radius=2, fewest=1)
    np.testing.assert_allclose(got, np.mean(means), rtol=1e-5)


def test_images_with_few_positions_are_left_out():
    first, second, target, used = small_case()
    used[0] = True
    used[1, 1:] = False  # at most five left
    alone = losses.triplet(first[:1], second[:1], target[:1], used[:1], fewest=1)
    np.testing.assert_allclose(losses.triplet(first, second, target, used, fewest=6), alone, rtol=1e-6)
    pair = (first, second)
    assert losses.triplet(*pair, target, used, fewest=31) == 0
    gradient = jax.grad(lambda f: losses.triplet(f, second, target, used, fewest=31))(first)
    assert not gradient.any()
    assert losses.distillation(pair, (second, first), target, used, fewest=31) == 0


def test_distillation_vanishes_for_the_teacher_itself_and_only_there():
    first, second, target, used = small_case()
    itself = losses.distillation((first, second), (first, second), target, used, fewest=1)
    np.testing.assert_allclose(itself, 0, atol=1e-6)
    assert losses.distillation((first, second), (second, first), target, used, fewest=1) > 0.1
    gradient = jax.grad(lambda f: losses.distillation((f, second), (second, first), target, used, fewest=1))(first)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_info_nce_is_the_cross_entropy_of_both_searches():
    first, second, _, used = (np.array(a) for a in small_case())
    rng = np.random.default_rng(5)
    n, h, w, _ = first.shape
    position = np.stack([rng.uniform(0, h - 1, (n, h, w)), rng.uniform(0, w - 1, (n, h, w))], -1)
    position[0, 0, 0] = h - 1, w - 1  # the last cell
    used[0, 0, 0] = True
    position[~used] = 1e6  # must not matter
    means = []
    for i in range(n):
        cells = np.argwhere(used[i])
        at = []
        for y, x in cells:
            v, u = position[i, y, x]
            top, left = min(int(v), h - 2), min(int(u), w - 2)
            part_y, part_x = v - top, u - left
            corners = second[i, top : top + 2, left : left + 2].astype(float)
            rows = corners[0] * (1 - part_y) + corners[1] * part_y
            at.append(unit(rows[0] * (1 - part_x) + rows[1] * part_x))
        logits = np.array([first[i, y, x] for y, x in cells]).astype(float) @ np.array(at).T / 0.1
        forth = np.diagonal(logits) - np.log(np.exp(logits).sum(1))
        back = np.diagonal(logits) - np.log(np.exp(logits).sum(0))
        means.append(-(forth + back).mean() / 2)
    got = losses.info_nce(first, second, position, used, temperature=0.1, fewest=1)
    np.testing.assert_allclose(got, np.mean(means), rtol=1e-4)
    gradient = jax.grad(lambda f: losses.info_nce(f, second, position, used, fewest=1))(first)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    assert losses.info_nce(first, second, position, used, fewest=31) == 0


def pairs(config):
    return next(pipeline.training_batches(config.data, 2, 0, transforms=transforms.warped_pairs))


def test_pairs_of_the_pipeline():
    batch = pairs(stage_config())
    assert set(batch) == {"lr", "hr", "warped", "homography"}
    assert batch["homography"].shape == (2, 3, 3)
    for i in range(2):
        np.testing.assert_array_equal(batch["lr"][i], downscale(batch["hr"][i]))
        again = cv2.warpPerspective(
            batch["hr"][i], batch["homography"][i].astype(float), (80, 80), flags=cv2.INTER_CUBIC
        )
        assert np.abs(again.astype(int) - batch["warped"][i]).mean() < 0.2
        assert np.abs(batch["hr"][i].astype(int) - batch["warped"][i]).mean() > 1


@pytest.mark.parametrize("blurred", [False, True])
def test_what_the_branches_see(blurred):
    """The teacher's first branch sees the sharp image, the student's the upsampled one; the second always the warp."""
    config = stage_config()
    batch = {k: steps.to_float(jnp.asarray(v)) for k, v in pairs(config).items()}
    params, teacher_params = fresh(0), fresh(1)
    weights = {"triplet": 1.0, "info_nce": 1.0, "distillation": 1.0}
    terms = matcher.contrastive_terms(NET, params, teacher_params if blurred else None, batch, weights)
    first = np.stack(
        [upscale(downscale(np.uint8(np.round(image * 255)))) for image in np.array(batch["hr"])]
    ) / np.float32(255)
    seen = (first if blurred else batch["hr"], batch["warped"])
    position, used = correspondences(batch["homography"], 80, 80)
    target = np.clip(np.round(position), 0, 19).astype(int)

    def descriptors(params, images):
        return [unit(np.array(f)) for f in NET.apply({"params": params}, *images)]

    own, teacher = descriptors(params, seen), descriptors(teacher_params, (batch["hr"], batch["warped"]))
    np.testing.assert_allclose(terms["triplet"], losses.triplet(*own, target, used), rtol=1e-4)
    middle = correspondences(batch["homography"], 80, 80, place=1.5)
    np.testing.assert_allclose(terms["info_nce"], losses.info_nce(*own, *middle), rtol=1e-4)
    assert ("distillation" in terms) == blurred
    if blurred:
        np.testing.assert_allclose(terms["distillation"], losses.distillation(own, teacher, target, used), rtol=1e-4)


def test_the_teacher_of_a_student_stays_as_it_is(chain):
    config = stage_config("student", init_from=str(chain / "teacher"))
    before = jax.tree.map(np.array, initial_state(config))
    jax.tree.map(np.testing.assert_array_equal, before.frozen["teacher"], before.generator)
    mesh = steps.make_mesh(jax.devices()[:1])
    state = steps.place(before, mesh)
    state, metrics = matcher.make_matcher_step(NET, config, mesh)(state, pairs(config))
    jax.tree.map(np.testing.assert_array_equal, before.frozen["teacher"], dict(state.frozen["teacher"]))
    moved = np.array(state.generator["branch_lr"]["conv1_1"]["kernel"])
    assert np.abs(moved - before.generator["branch_lr"]["conv1_1"]["kernel"]).max() > 0
    assert {"triplet", "distillation", "loss", "grad_norm", "largest_gradient", "finite"} == set(metrics)
    np.testing.assert_allclose(metrics["loss"], metrics["triplet"] + 15 * metrics["distillation"], rtol=1e-5)


def test_training_improves_matching():
    config = stage_config(learning_rates__default=3e-3)
    mesh = steps.make_mesh(jax.devices()[:1])
    state = steps.place(steps.create_state(config, fresh(0)), mesh)
    step = matcher.make_matcher_step(NET, config, mesh)
    batches = pipeline.training_batches(config.data, 2, 0, transforms=transforms.warped_pairs)
    history = []
    for _ in range(40):
        state, metrics = step(state, next(batches))
        history.append(float(metrics["triplet"]))
    assert np.mean(history[-5:]) < 0.9 * history[0]


def test_results_of_a_matcher(chain):
    results = train.evaluate_only(stage_config(), str(chain / "teacher"))
    rows = results["embedded"]["references"]
    assert list(rows) == ["hr_hr", "lr_hr", "untrained_lr_hr", "random_lr_hr"]
    shares = {name: row["within_one_cell"] for name, row in rows.items()}
    assert all(0 < share <= 1 for share in shares.values())
    assert len(set(shares.values())) == 4


def test_super_resolution_starts_with_the_student(chain):
    config = tiny_config(init_from=str(chain / "student"), model__correspondence_channels=CHANNELS)
    params = initial_state(config).generator
    student = train.Checkpoints(chain / "student").read_state().generator
    for branch in ("branch_lr", "branch_ref"):
        jax.tree.map(np.testing.assert_array_equal, params["correspondence"][branch], student[branch])
    alone = initial_state(tiny_config(model__correspondence_channels=CHANNELS)).generator
    np.testing.assert_array_equal(params["tail1"]["kernel"], alone["tail1"]["kernel"])
    with pytest.raises(InputError, match=r"do not fit(.|\n)*wrong shape: branch_lr/conv3_1/kernel"):
        initial_state(tiny_config(init_from=str(chain / "student"), model__correspondence_channels=(4, 6, 10)))


@pytest.mark.parametrize(
    ("make", "source", "message"),
    [
        (
            stage_config,
            "student",
            r"a run of stage teacher expected to start stage teacher from, got one of stage student",
        ),
        (
            tiny_config,
            "teacher",
            r"a run of stage student or rec or gan expected to start stage rec from, got .* teacher",
        ),
        (gan_config, "teacher", r"a run of stage student or rec or gan expected to start stage gan"),
        (lambda **k: stage_config("student", **k), "nowhere", r"no checkpoint in .*nowhere"),
    ],
)
def test_runs_that_a_stage_cannot_start_from(chain, make, source, message):
    config = make(init_from=str(chain / source))
    config.eval.sets = ""
    with pytest.raises(InputError, match=message):
        initial_state(config)


def test_a_student_without_teacher(tmp_path):
    with pytest.raises(InputError, match=r"config\.init_from is empty; the workdir of a run of stage teacher expected"):
        train.train_and_evaluate(stage_config("student"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_unknown_stage_and_patches_that_are_too_small(tmp_path):
    with pytest.raises(
        InputError, match=r"config\.stage: one of teacher, student, rec, gan, ranker expected, got 'pupil'"
    ):
        train.train_and_evaluate(tiny_config(stage="pupil"), str(tmp_path))
    with pytest.raises(InputError, match=r"config\.data\.patch: at least 80 expected, .* got 64"):
        train.train_and_evaluate(stage_config(data__patch=64), str(tmp_path))


def test_a_model_of_which_a_part_is_random_is_not_evaluated(chain, tmp_path, monkeypatch):
    config = tiny_config(init_from=str(chain / "student"), model__correspondence_channels=CHANNELS)
    with pytest.raises(InputError, match=r"leave parts of rrsr untrained: rrsr, vgg; to evaluate it, name a run"):
        train.evaluate_only(config, str(tmp_path / "run"))
    trunk = {k: v for k, v in random_params(tiny_rrsr()).items() if k not in ("vgg", "correspondence")}
    monkeypatch.setattr(initial.weights, "load", lambda kind, path: trunk)
    with pytest.raises(InputError, match=r"leave parts of rrsr untrained: correspondence, vgg; to"):
        train.evaluate_only(tiny_config(weights__rrsr=__file__), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    config.eval.references = "bicubic"  # needs no model, and takes none
    assert list(train.evaluate_only(config, str(tmp_path / "run"))["embedded"]["references"]) == ["bicubic"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == "none"


def test_both_branches_can_start_as_vgg(tmp_path, state_dict):
    np.savez(tmp_path / "vgg.npz", **state_dict("vgg19"))
    config = stage_config(weights__vgg=str(tmp_path / "vgg.npz"), model__channels=(64, 128, 256))
    params = initial_state(config).generator
    kernel = state_dict("vgg19")["features.10.weight"].transpose(2, 3, 1, 0)
    for branch in params.values():
        np.testing.assert_array_equal(branch["conv3_1"]["kernel"], kernel)
        assert set(branch) == {"conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"}


def test_a_student_from_a_student_keeps_its_teacher(chain):
    config = stage_config("student", init_from=str(chain / "student"))
    student, found = train.Checkpoints(chain / "student").read_state(), initial_state(config)
    jax.tree.map(np.testing.assert_array_equal, found.generator, student.generator)
    jax.tree.map(np.testing.assert_array_equal, found.frozen, student.frozen)
    kernels = [net["branch_lr"]["conv3_1"]["kernel"] for net in (found.frozen["teacher"], found.generator)]
    assert not np.array_equal(*kernels)


def test_a_student_of_a_teacher_from_elsewhere(monkeypatch):
    elsewhere = random_params(NET)
    monkeypatch.setattr(initial.weights, "load", lambda kind, path: elsewhere)
    found = initial_state(stage_config("student", weights__correspondence=__file__))
    jax.tree.map(np.testing.assert_array_equal, found.generator, elsewhere)
    jax.tree.map(np.testing.assert_array_equal, found.frozen["teacher"], elsewhere)


def test_a_matcher_cannot_be_evaluated_without_one(tmp_path):
    config = stage_config(eval__references="bicubic")
    with pytest.raises(InputError, match="no checkpoint in") as error:
        train.evaluate_only(config, str(tmp_path / "none"))
    assert "bicubic" not in str(error.value)
