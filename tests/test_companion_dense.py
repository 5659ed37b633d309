"""Q3 of the second assignment: dense networks, Table 1, gradients and the search."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import optuna
import pytest
from conftest import ROOT
from notebooks import COMPANION, import_functions, read_notebook

TINY = dict(SEARCH_TRIALS=2, SEARCH_EPOCHS=1, SEARCH_IMAGES=250)


@pytest.fixture(scope="module")
def companion():
    """The functions, parameters and derived values of the notebook, as a module."""
    return import_functions(COMPANION, TINY, name="companion_q3")


@pytest.fixture
def study_file(companion, tmp_path, monkeypatch):
    """A journal in a folder that is not there yet."""
    path = tmp_path / "results" / "dense_search.journal"
    monkeypatch.setattr(companion, "STUDY_FILE", path)
    return path


def make_images(count):
    """Return images of noise (count, 28, 28, 1) and labels (count,) of all kinds."""
    random = np.random.default_rng(0)
    images = random.random((count, 28, 28, 1), dtype="float32")
    return images, np.arange(count) % 10


# ---------------------------------------------------------------------------- data


def test_mnist_is_read_from_the_file_and_checked(companion, tmp_path, monkeypatch):
    good = ROOT / "data" / "mnist.npz"
    monkeypatch.setattr(companion, "MNIST_FILES", (tmp_path / "none.npz", good))
    digits, labels, test_digits, test_labels = companion.load_mnist()
    assert (digits.shape, test_digits.shape) == (
        (60_000, 28, 28, 1),
        (10_000, 28, 28, 1),
    )
    assert (digits.dtype, digits.max()) == (np.float32, 1)
    assert (len(labels), len(test_labels)) == (60_000, 10_000)
    with np.load(good) as file:
        arrays = dict(file)
    arrays["y_test"] = arrays["y_test"][::-1]
    changed = tmp_path / "changed.npz"
    np.savez(changed, **arrays)
    monkeypatch.setattr(companion, "MNIST_FILES", (changed,))
    with pytest.raises(ValueError, match="holds something else: delete it"):
        companion.load_mnist()
    changed.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"could not read .*changed\.npz"):
        companion.load_mnist()
    assert changed.read_bytes() == b"no archive"


def test_validation_images_are_left_out_of_the_training(companion):
    labels = np.repeat(np.arange(10), 1_000)
    training, validation = companion.split(np.arange(10_000), labels)
    assert not set(training[0]) & set(validation[0])
    assert len(training[0]) + len(validation[0]) == 10_000
    assert np.bincount(validation[1]).tolist() == [500] * 10


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


def test_distortion_follows_the_seed_and_stays_small(companion):
    images = np.zeros((4, 28, 28, 1), np.float32)
    images[:, 8:20, 12:16] = 1
    found = []
    for seed in (1, 1, 2):
        companion.keras.utils.set_random_seed(seed)
        found.append(np.array(companion.distort(images)))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0.1
    assert 0 <= found[0].min() < found[0].max() <= 1 + 1e-6
    assert len({image.tobytes() for image in found[0]}) == 4
    ink = found[0].sum(axis=(1, 2, 3)) / 48
    assert ((ink > 0.7) & (ink < 1.4)).all()


# ------------------------------------------------------------------------ networks


def test_each_of_several_networks_is_a_plain_one(companion):
    designs = [
        companion.Design(2, 8, "relu"),
        companion.Design(1, 4, "tanh"),
        companion.Design(1, 4, "sigmoid"),
    ]
    companion.keras.utils.set_random_seed(0)
    networks = companion.build_networks(designs, (0.25, 0.5))
    images, _ = make_images(5)
    outputs = networks(images).numpy()
    assert outputs.shape == (5, 3, 10)
    dense = [layer for layer in networks.layers if "dense" in layer.name]
    dense.sort(key=lambda layer: (len(layer.name), layer.name))  # as they were made
    dense = [layer.get_weights() for layer in dense]
    functions = {
        "relu": lambda z: np.maximum(z, 0),
        "tanh": np.tanh,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    }
    for number, design in enumerate(designs):
        x = (images.reshape(5, -1) - 0.25) / 0.5
        for _ in range(design.hidden_layers):
            kernel, bias = dense.pop(0)
            x = functions[design.activation](x @ kernel + bias)
        kernel, bias = dense.pop(0)
        np.testing.assert_allclose(
            outputs[:, number], x @ kernel + bias, rtol=1e-4, atol=1e-5
        )
    assert not dense


def test_initial_weights_are_those_of_he_and_of_glorot(companion):
    for activation, variance in (("relu", 2 / 784), ("tanh", 2 / (784 + 64))):
        design = companion.Design(1, 64, activation)
        networks = companion.build_networks([design], (0.0, 1.0))
        kernel = next(x for x in networks.trainable_weights if x.shape == (784, 64))
        assert np.var(kernel) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize(("kind", "extra"), [("none", 0), ("batch", 2), ("layer", 2)])
def test_normalization_adds_a_scale_and_a_shift_a_unit(companion, kind, extra):
    design = companion.Design(1, 16, "relu", kind, 0.5)
    networks = companion.build_networks([design], (0.0, 1.0))
    trained = sum(np.prod(weight.shape) for weight in networks.trainable_weights)
    assert trained == 784 * 16 + 16 + 16 * 10 + 10 + extra * 16


def test_a_network_learns_the_same_alone_and_beside_others(companion):
    """The sum of the losses gives each network its own gradient and no other."""
    images, labels = make_images(100)
    designs = [
        companion.Design(1, 8, name, batch=50, epochs=2) for name in ("tanh", "relu")
    ]
    both = companion.train(designs, images, labels)
    alone = companion.train(designs[:1], images, labels)
    again = companion.train(designs, images, labels)
    logits = both.predict(images, verbose=0)
    np.testing.assert_array_equal(logits, again.predict(images, verbose=0))
    np.testing.assert_allclose(
        logits[:, :1], alone.predict(images, verbose=0), rtol=1e-3, atol=1e-3
    )


def test_scores_are_those_of_each_network(companion):
    class Answers:
        """Two networks, the first of which always says 0 and the second 3."""

        def predict(self, images, **options):
            logits = np.zeros((len(images), 2, 10))
            logits[:, 0, 0] = logits[:, 1, 3] = 1
            return logits

    right = companion.score(Answers(), np.zeros((2, 28, 28, 1)), np.array([0, 3]))
    assert right.tolist() == [[True, False], [False, True]]


def test_relative_gradients_by_hand(companion):
    keras = companion.keras
    inputs = keras.Input((28, 28, 1))
    start = keras.initializers.Constant(0.5)
    flat = keras.layers.Flatten()(inputs)
    logits = keras.layers.Dense(10, kernel_initializer=start)(flat)
    network = keras.Model(inputs, logits[:, None])
    images = np.zeros((1, 28, 28, 1), np.float32)
    images[0, 0, 0] = 2
    # p − y is −0.9 once and 0.1 nine times; the one pixel has the value 2
    expected = 2 * np.sqrt(0.81 + 9 * 0.01) / (0.5 * np.sqrt(7_840))
    found = companion.relative_gradients(network, images, np.array([4]))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


# -------------------------------------------------------------------------- search


def run_trials(companion, study, number):
    """Run cheap trials over the searched space, whose last values count up."""
    for _ in range(number):
        trial = study.ask()
        companion.suggest_design(trial)
        study.tell(trial, 0.1 * trial.number)


def test_a_study_is_resumed_or_a_new_one_begun(companion, study_file):
    assert companion.open_study(resume=True).study_name == "dense 1"
    first = companion.open_study(resume=True)
    run_trials(companion, first, 3)
    again = companion.open_study(resume=True)
    assert (again.study_name, len(again.trials)) == ("dense 1", 3)
    other = companion.open_study(resume=False)
    assert (other.study_name, len(other.trials)) == ("dense 2", 0)
    assert len(first.trials) == 3
    assert companion.open_study(resume=True).study_name == "dense 2"


def test_new_studies_draw_the_same_designs(companion, study_file):
    studies = [companion.open_study(resume=False) for _ in range(2)]
    for study in studies:
        run_trials(companion, study, 3)
    first, second = ([trial.params for trial in study.trials] for study in studies)
    assert first == second


def test_a_design_is_what_a_trial_has_drawn(companion, study_file):
    study = companion.open_study(resume=False)
    run_trials(companion, study, 2)
    trial = optuna.trial.FixedTrial(study.best_params)
    design = companion.suggest_design(trial)
    for name, value in study.best_params.items():
        expected = pytest.approx(value, rel=0.02) if type(value) is float else value
        assert getattr(design, name) == expected


def test_a_search_ends_with_the_trials_asked_for(companion, study_file):
    training, validation = make_images(300), make_images(50)
    study = companion.open_study(resume=False)
    companion.search(study, training, validation)
    assert len(study.trials) == 2
    assert 0 <= study.best_value <= 1
    companion.search(companion.open_study(resume=True), training, validation)
    assert len(study.trials) == 2


def test_a_trial_that_lags_behind_is_ended(companion, study_file, monkeypatch):
    study = companion.open_study(resume=False)
    for _ in range(5):  # trials that were better than noise can be
        trial = study.ask()
        companion.suggest_design(trial)
        for epoch in range(4):
            trial.report(0.99, epoch + 1)
        study.tell(trial, 0.99)
    monkeypatch.setattr(companion, "SEARCH_TRIALS", 6)
    monkeypatch.setattr(companion, "SEARCH_EPOCHS", 4)
    companion.search(study, make_images(300), make_images(50))
    last = study.trials[-1]
    assert last.state.name == "PRUNED"
    assert max(last.intermediate_values) == 2


@pytest.mark.slow
def test_another_process_joins_by_the_lines_that_the_text_gives(
    companion, study_file, monkeypatch
):
    study = companion.open_study(resume=False)
    run_trials(companion, study, 1)
    text = "\n".join(cell.source for cell in read_notebook(COMPANION).cells)
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(lines.splitlines()) <= 15
    # small numbers, and the journal of this test instead of the notebook's
    changes = "".join(f"; {name} = {value}" for name, value in TINY.items())
    changes += f"; STUDY_FILE = Path({str(study_file)!r})"
    lines = lines.replace("digits, labels", changes[2:] + "\ndigits, labels", 1)
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=COMPANION.parent,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(study.trials) == 2
    assert 0 < study.trials[1].value < 1


def test_cross_validation_leaves_each_image_out_once(companion, monkeypatch):
    seen = []
    monkeypatch.setattr(companion, "train", lambda d, x, y: seen.append(x) or "trained")
    monkeypatch.setattr(
        companion, "score", lambda n, x, y: seen.append(x) or np.ones((len(x), 2))
    )
    images = np.arange(300)
    accuracies = companion.cross_validate(["a", "b"], images, images % 10)
    assert accuracies.tolist() == [[100, 100]] * 3
    kept, left_out = seen[::2], seen[1::2]
    assert sorted(np.concatenate(left_out)) == list(range(300))
    for one, other in zip(kept, left_out, strict=True):
        assert sorted([*one, *other]) == list(range(300))
        assert np.bincount(other % 10).tolist() == [10] * 10
