"""The second assignment: losses, products of weights, dense networks and the search."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import optuna
import pytest
from conftest import ROOT
from notebook import (
    COMPANION,
    execute,
    find_faults,
    import_functions,
    inject_parameters,
    read_notebook,
)

SAMPLES = np.array([[0.5], [0.1], [19.6], [0.9]]), np.array([0, 1, 1, 0])
LOSSES = ("make_cross_entropy", "make_sigmoid_error", "make_squared_error")
# Small numbers that every cell can still work with.
TINY = dict(
    DESCENT_STEPS=40,
    SEPARABLE_STEPS=40,
    TRAINING_IMAGES=500,
    WIDTHS=(8,),
    GRID_EPOCHS=1,
    GRID_SEEDS=2,
    SEARCH_TRIALS=2,
    SEARCH_EPOCHS=1,
    SEARCH_IMAGES=250,
    TUNED_EPOCHS=1,
    AUGMENTED_EPOCHS=1,
    AUGMENTED_WIDTH=16,
)
TINY_SVHN = dict(
    SMALL_EPOCHS=1, HEAD_EPOCHS=1, TUNING_EPOCHS=1, TUNING_SIZE=32, PROBE_SIZES=(32,)
)


@pytest.fixture(scope="module")
def companion():
    """The functions, parameters and derived values of the notebook, as a module."""
    return import_functions(COMPANION, name="companion")


def derivative(function, point, step=1e-5):
    """Return the central differences of a function at a point (d,), one a weight."""
    steps = step * np.eye(len(point))
    return np.array(
        [(function(point + s) - function(point - s)) / (2 * step) for s in steps]
    )


# ------------------------------------------------------------------ Q1: one layer


def test_minima_stand_where_the_assignment_has_them(companion):
    grid = np.linspace(-7, 5, 2000)
    found = companion.find_minima(companion.make_sigmoid_error(), *SAMPLES, grid)
    assert found == pytest.approx([-3.20, 0.11], abs=0.005)
    found = companion.find_minima(companion.make_cross_entropy(), *SAMPLES, grid)
    assert found == pytest.approx([0.17], abs=0.005)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_hessian_are_those_of_finite_differences(companion, name):
    loss = getattr(companion, name)()
    random = np.random.default_rng(0)
    data = random.normal(size=(7, 3)), random.integers(0, 2, 7)
    for weights in random.normal(size=(5, 3)):
        found = companion.mean_gradient(loss, weights, *data)
        expected = derivative(lambda w: companion.mean_loss(loss, w, *data), weights)
        np.testing.assert_allclose(found, expected, atol=1e-8)
        found = companion.mean_hessian(loss, weights, *data)
        expected = derivative(
            lambda w: companion.mean_gradient(loss, w, *data), weights
        )
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_values_of_the_losses_by_hand(companion):
    logit, odds = np.log(3), 0.75  # σ(log 3) = 3/4
    assert companion.sigmoid(logit) == pytest.approx(odds)
    loss = companion.make_cross_entropy()
    assert loss.value(logit, 1) == pytest.approx(-np.log(0.75))
    assert loss.value(logit, 0) == pytest.approx(-np.log(0.25))
    assert loss.value(-1000.0, 1) == 1000
    loss = companion.make_sigmoid_error()
    assert loss.value(logit, 1) == pytest.approx(0.0625)
    # 2p(1 − p)²(3p − 1) at p = 3/4
    assert loss.curvature(logit, 1) == pytest.approx(2 * 0.75 * 0.0625 * 1.25)
    assert loss.curvature(np.log(1 / 3), 1) < 0


def test_full_rank_makes_cross_entropy_strictly_convex_and_less_does_not(companion):
    loss, labels = companion.make_cross_entropy(), np.array([0, 1, 1])
    weights = np.random.default_rng(0).normal(size=(20, 2))
    full = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    hessians = companion.mean_hessian(loss, weights, full, labels)
    assert np.linalg.eigvalsh(hessians).min() > 0
    repeated = full[:, [0, 0]]
    hessians = companion.mean_hessian(loss, weights, repeated, labels)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessians)[:, 0], 0, atol=1e-12)


def test_descent_keeps_the_steps_asked_for(companion):
    # on w²/2 a step of rate 0.1 takes a tenth away
    path = companion.descend(lambda w: w, [[1.0], [-2.0]], 0.1, 5, [0, 1, 5])
    expected = [[1, -2], [0.9, -1.8], [0.9**5, -2 * 0.9**5]]
    np.testing.assert_allclose(path[..., 0], expected)


def test_angles_to_the_maximum_margin(companion):
    weights = np.array([[4.0, 2.0], [-1.0, 2.0], [1.0, 3.0]])
    np.testing.assert_allclose(companion.margin_angles(weights), [0, 90, 45], atol=1e-5)


# --------------------------------------------------------------- Q2: two factors


@pytest.mark.parametrize("name", LOSSES)
def test_the_same_for_a_product_of_two_weights(companion, name):
    loss, labels = getattr(companion, name)(), np.array([1, 1, 0])
    for weights in np.random.default_rng(0).normal(size=(5, 2)):
        found = companion.product_gradient(loss, weights, labels)
        expected = derivative(
            lambda w: companion.product_loss(loss, w, labels), weights
        )
        np.testing.assert_allclose(found, expected, atol=1e-8)
        found = companion.product_hessian(loss, weights, labels)
        expected = derivative(
            lambda w: companion.product_gradient(loss, w, labels), weights
        )
        np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize(("name", "slope"), [(LOSSES[0], 0.5), (LOSSES[2], 2.0)])
def test_zero_is_a_saddle_and_the_chord_lies_below(companion, name, slope):
    loss, one = getattr(companion, name)(), np.array([1])
    hessian = companion.product_hessian(loss, np.zeros(2), one)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [-slope, slope])
    ends = companion.product_loss(loss, np.array([[0.5, 0.5], [-0.5, -0.5]]), one)
    assert ends[0] == ends[1] < companion.product_loss(loss, np.zeros(2), one)


# ------------------------------------------------------------------ Q3: networks


def test_a_network_has_the_weights_of_its_design(companion):
    design = companion.Design(depth=2, width=16)
    network = companion.build_network(design, (0.1, 0.3), seed=0)
    # 784 × 16 + 16, 16 × 16 + 16, 16 × 10 + 10, and mean, variance, count of the input
    trained = sum(np.prod(weight.shape) for weight in network.trainable_weights)
    assert trained == 12_560 + 272 + 170
    assert network(np.zeros((3, 28, 28, 1))).shape == (3, 10)


def test_pixels_are_standardized_inside_the_network(companion):
    inputs, flat = companion.open_inputs((0.25, 0.5))
    model = companion.keras.Model(inputs, flat)
    images = np.stack([np.full((28, 28, 1), value) for value in (0.25, 1.0)])
    np.testing.assert_allclose(model(images)[:, 5], [0, 1.5], atol=1e-6)


def test_each_network_of_a_stack_is_a_plain_one(companion):
    names = ["relu", "relu", "tanh", "sigmoid"]
    stack = companion.build_stack(8, 2, names, (0.0, 1.0), seed=0)
    images = np.random.default_rng(0).random((5, 28, 28, 1)).astype(np.float32)
    outputs = stack(images).numpy()
    first, second, last = (
        layer.get_weights() for layer in stack.layers if "dense" in layer.name
    )
    first = np.split(first[0], 4, axis=1), np.split(first[1], 4)
    functions = {
        "relu": lambda z: np.maximum(z, 0),
        "tanh": np.tanh,
        "sigmoid": companion.sigmoid,
    }
    for number, name in enumerate(names):
        x = images.reshape(5, -1)
        for kernel, bias in (first, second):
            x = functions[name](x @ kernel[number] + bias[number])
        x = x @ last[0][number] + last[1][number]
        np.testing.assert_allclose(outputs[:, number], x, rtol=1e-4, atol=1e-5)
    assert not np.allclose(first[0][0], first[0][1])
    # He: variance 2 / 784; Glorot: 2 / (784 + 8)
    np.testing.assert_allclose(first[0][1].var() * 784, 2, rtol=0.1)
    np.testing.assert_allclose(first[0][2].var() * 792, 2, rtol=0.1)


def test_losses_and_answers_of_one_network_and_of_a_stack(companion):
    logits = np.log([[0.5] + [0.5 / 9] * 9, [0.1] * 10]).astype(np.float32)
    labels = np.array([0, 3])
    found = companion.sum_losses(labels, logits)
    np.testing.assert_allclose(found, -np.log([0.5, 0.1]), rtol=1e-5)
    stacked = np.stack([logits, logits], axis=1)
    np.testing.assert_allclose(
        companion.sum_losses(labels, stacked), -2 * np.log([0.5, 0.1]), rtol=1e-5
    )
    images = np.zeros((2, 28, 28, 1))
    right = companion.score(lambda _, training: logits, images, labels)
    assert right.tolist() == [True, False]
    right = companion.score(lambda _, training: stacked, images, labels)
    assert right.tolist() == [[True, True], [False, False]]


def test_an_epoch_has_every_image_once_and_a_new_order(companion):
    images = np.zeros((100, 28, 28, 1), np.float32)
    batches = companion.make_batches(images, np.arange(100), 32, 0.0, seed=0)
    first, second = (np.concatenate([y for _, y in batches]) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist()


def test_straightened_digits_are_centered_and_upright(companion):
    images = np.zeros((2, 28, 28, 1), np.float32)
    for row in range(6, 22):  # a bar that leans by half a column a row, off the center
        images[0, row, 6 + row // 2 : 9 + row // 2] = 1
    found = companion.straighten(images)
    assert found.shape == images.shape
    np.testing.assert_array_equal(found[1], 0)
    ink = found[0, ..., 0] / found[0].sum()
    row, column = np.indices((28, 28)) - 13.5
    assert (ink * row).sum() == pytest.approx(0, abs=0.1)
    assert (ink * column).sum() == pytest.approx(0, abs=0.1)
    assert (ink * row * column).sum() == pytest.approx(0, abs=0.5)
    before = images[0, ..., 0] / images[0].sum()
    assert abs((before * row * (column + 13.5)).sum()) > 5


def test_distortion_follows_its_seed_and_its_strength(companion):
    images = np.zeros((4, 28, 28, 1), np.float32)
    images[:, 8:20, 12:16] = 1
    tensor = companion.tf.constant(images)
    same = companion.distort(tensor, 0.0, (1, 2)).numpy()
    np.testing.assert_allclose(same, images, atol=1e-5)
    once, again, other = (
        companion.distort(tensor, 1.0, seed).numpy()
        for seed in [(1, 2), (1, 2), (1, 3)]
    )
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 0.1
    assert once.min() >= 0
    assert once.max() <= 1 + 1e-6


def test_schedules_begin_and_end_as_they_are_named(companion):
    assert companion.make_schedule(0.01, "constant", 100) == 0.01
    cosine = companion.make_schedule(0.01, "cosine", 100)
    assert float(cosine(0)) == pytest.approx(0.01)
    assert float(cosine(100)) == pytest.approx(0, abs=1e-9)
    warm = companion.make_schedule(0.01, "warm-up and cosine", 100)
    values = [float(warm(step)) for step in (0, 20, 100)]
    assert values == pytest.approx([0.001, 0.01, 0], abs=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.make_schedule(1.0, "linear", 9), "expected constant, cosine"),
        (
            lambda c: c.build_network(c.Design(normalization="group"), (0, 1), 0),
            "expected a normalization none, batch or layer, got group",
        ),
    ],
)
def test_unknown_choices_are_refused(companion, call, message):
    with pytest.raises(ValueError, match=message):
        call(companion)


def test_gradient_norms_of_a_linear_network_by_hand(companion):
    keras = companion.keras
    inputs = keras.Input((28, 28, 1))
    start = keras.initializers.Zeros()
    flat = keras.layers.Flatten()(inputs)
    network = keras.Model(
        inputs, keras.layers.Dense(10, kernel_initializer=start)(flat)
    )
    images = np.zeros((1, 28, 28, 1), np.float32)
    images[0, 0, 0] = 2
    # p − y is −0.9 once and 0.1 nine times; the one pixel has the value 2
    expected = 2 * np.sqrt(0.81 + 9 * 0.01)
    found = companion.gradient_norms(network, images, np.array([4]))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_mcnemar_by_hand(companion):
    first = np.array([True] * 9 + [False] * 1 + [True] * 5)
    second = np.array([False] * 9 + [True] * 1 + [True] * 5)
    # two sides of the binomial: 2 (1 + 10) / 2¹⁰
    expected = 9, 1, pytest.approx(22 / 1024)
    assert companion.compare_answers(first, second) == expected
    assert companion.compare_answers(first, first) == (0, 0, 1.0)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611)],  # Newcombe (1998), table I
)
def test_wilson_interval_has_the_published_ends(
    companion, successes, trials, low, high
):
    found = companion.wilson_interval(successes, trials)
    assert found == pytest.approx((low, high), abs=5.1e-5)


# -------------------------------------------------------------------- Q3: search


def run_trials(companion, study, number):
    """Run cheap trials over the searched space, whose last values count up."""
    for _ in range(number):
        trial = study.ask()
        companion.suggest_design(trial)
        study.tell(trial, 0.1 * trial.number)


def test_a_study_is_resumed_or_a_new_one_begun(companion, tmp_path):
    path = tmp_path / "results" / "search.journal"
    first = companion.open_study(path, resume=False, seed=1)
    run_trials(companion, first, 3)
    again = companion.open_study(path, resume=True)
    assert again.study_name == first.study_name == "dense-1"
    assert len(again.trials) == 3
    other = companion.open_study(path, resume=False)
    assert (other.study_name, len(other.trials)) == ("dense-2", 0)
    assert (
        len(optuna.load_study(study_name="dense-1", storage=other._storage).trials) == 3
    )
    assert companion.open_study(path, resume=True).study_name == "dense-2"


def test_a_design_is_what_a_trial_has_drawn(companion, tmp_path):
    study = companion.open_study(tmp_path / "search.journal", resume=False, seed=1)
    run_trials(companion, study, 2)
    design = companion.Design(**study.best_params)
    assert design == companion.suggest_design(
        optuna.trial.FixedTrial(study.trials[1].params)
    )


def test_a_finished_search_runs_no_further_trial(companion, tmp_path):
    study = companion.open_study(tmp_path / "search.journal", resume=False, seed=1)
    run_trials(companion, study, 2)
    companion.search(study, 2, lambda trial: pytest.fail("one trial too many"))


@pytest.mark.slow
def test_a_worker_joins_the_study_of_another_process(companion, tmp_path):
    path = tmp_path / "search.journal"
    study = companion.open_study(path, resume=False, seed=1)
    run_trials(companion, study, 1)
    tiny = dict(SEARCH_TRIALS=2, SEARCH_EPOCHS=1, SEARCH_IMAGES=250)
    options = [f"{name}={value}" for name, value in tiny.items()]
    program = ROOT / "companion" / "search_worker.py"
    done = subprocess.run(
        [sys.executable, program, f"--study={path}", *options],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "working on dense-1" in done.stdout
    assert [trial.number for trial in study.trials] == [0, 1]
    assert study.trials[1].user_attrs["weights"] > 0
    assert 0 < study.trials[1].value < 1


def test_a_worker_names_an_unknown_parameter(tmp_path):
    program = ROOT / "companion" / "search_worker.py"
    done = subprocess.run(
        [sys.executable, program, f"--study={tmp_path / 's'}", "NONE=1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no parameter ['NONE']" in done.stderr


# ---------------------------------------------------------------- the whole notebook


@pytest.mark.slow
def test_the_notebook_runs_in_a_folder_of_its_own(tmp_path: Path):
    shutil.copytree(ROOT / "data", tmp_path / "data")
    notebook = inject_parameters(read_notebook(COMPANION), TINY)
    executed = execute(notebook, tmp_path)
    nbformat.validate(executed)
    assert not find_faults(executed, tmp_path)
    files = {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert files == {"data/mnist.npz", "results/dense_search.journal"}


@pytest.mark.slow
def test_the_experiments_on_crops_run(tmp_path: Path):
    """On random crops that stand where those of SVHN would."""
    shutil.copytree(ROOT / "data", tmp_path / "data")
    random = np.random.default_rng(0)
    crops = random.integers(0, 256, (60, 32, 32, 3), np.uint8)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    photos, digits = np.arange(60) // 2, np.arange(60) % 10
    path = tmp_path / "shared" / "data" / "svhn_train_first1083.npz"
    np.savez(path, x=crops, y=digits.astype(np.uint8), src=photos)
    notebook = inject_parameters(read_notebook(COMPANION), TINY | TINY_SVHN)
    executed = execute(notebook, tmp_path)
    assert not find_faults(executed, tmp_path)
    text = "\n".join(
        output.get("text", "") + str(output.get("data", {}).get("text/markdown", ""))
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "60 crops of 30 photos" in text
    for name in ("LeNet-5", "small AlexNet", "small VGG", "ResNet-18"):
        assert f"| {name} | random weights |" in text
    assert "| EfficientNet-Lite0 | ImageNet weights |" in text
    assert "all layers tuned against frozen, 32 pixels: only first right" in text
