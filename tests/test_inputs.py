"""What people can get wrong in the homework: refused before any long work, and why."""

from __future__ import annotations

import os
import shutil
import zipfile

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT
from notebooks import find_homework, import_functions, tags

HALF = [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs the cells of imports, settings and definitions in a new folder."""
    monkeypatch.chdir(tmp_path)

    def run(**settings):
        return import_functions(find_homework(), settings, "started")

    return run


# --------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"SEED": -1}, "SEED: int from 0 to 2147483647, got -1"),
        ({"SEED": 1.5}, "SEED: int from 0 to 2147483647, got 1.5"),
        ({"RETRAIN": 1}, "RETRAIN: bool from False to True, got 1"),
        ({"EPOCHS": 0}, "EPOCHS: int from 1 to 1000, got 0"),
        ({"TRAINING_IMAGES": 60_000}, "TRAINING_IMAGES: int from 1000 to 55000"),
        ({"STEPS": 2.0}, "STEPS: int from 40 to 100000, got 2.0"),
        ({"SOFT_STEPS": True}, "SOFT_STEPS: int from 40 to 100000, got True"),
        ({"PIXEL_RATE": "0.1"}, "PIXEL_RATE: float from 1e-06 to 10, got '0.1'"),
        ({"VIEW_NOISE": 2}, "VIEW_NOISE: float from 0 to 1, got 2"),
        ({"TEMPERATURE": 0}, "TEMPERATURE: float from 0.01 to 1000, got 0"),
        ({"RUNS_PER_DIGIT": 3}, "RUNS_PER_DIGIT: int from 10 to 1000, got 3"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(start, setting, said):
    with pytest.raises(ValueError, match=r"Change it in the cell of settings") as error:
        start(**setting)
    assert said in str(error.value)


def test_every_setting_is_checked(homework, notebook):
    source = next(c.source for c in notebook.cells if "parameters" in tags(c))
    names = [line.split(" = ")[0] for line in source.splitlines() if " = " in line]
    assert set(names) == set(homework.LIMITS)


def test_an_integer_where_a_float_is_meant_is_taken(start):
    module = start(PRIOR_WEIGHT=0, SHARPENING=0, POSE=0, VIEW_NOISE=0, TEMPERATURE=1)
    values = (module.PRIOR_WEIGHT, module.SHARPENING, module.POSE, module.TEMPERATURE)
    assert [type(value) for value in values] == [float] * 4


def test_a_folder_that_cannot_be_written_is_found_before_any_work(start, tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="results"):
        start()


# ------------------------------------------------------- what others set before us


def test_the_state_of_keras_and_matplotlib_is_set(start):
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("float16")
    plt.rc("image", origin="lower")
    plt.rc("axes", facecolor="black")
    module = start()
    assert keras.config.image_data_format() == "channels_last"
    assert module.build_network().compute_dtype == "float32"
    assert plt.rcParams["image.origin"] == "upper"
    assert plt.rcParams["axes.facecolor"] == "white"


def test_another_backend_of_keras_is_refused(start, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="loaded on jax: restart the notebook"):
        start()


def test_an_older_keras_is_refused(start, monkeypatch):
    monkeypatch.setattr(keras, "__version__", "3.9.2")
    with pytest.raises(ImportError, match=r"Keras 3.10 or newer, got 3.9.2"):
        start()


# --------------------------------------------------------------------------- the data


@pytest.fixture
def data_file(homework, tmp_path, monkeypatch):
    """A copy of the data file that a test may damage; the notebook reads it."""
    monkeypatch.chdir(tmp_path)
    homework.DATA_FILE.parent.mkdir()
    shutil.copy(ROOT / homework.DATA_FILE, homework.DATA_FILE)
    return homework.DATA_FILE


def test_digits_are_scaled_and_labels_kept(homework, data_file):
    digits, labels, test_digits, _ = homework.load_mnist()
    with np.load(data_file) as file:
        np.testing.assert_array_equal(labels, file["y_train"])
        np.testing.assert_array_equal(digits[..., 0] * 255, file["x_train"])
    assert digits.dtype == np.float32
    assert test_digits.shape == (10_000, 28, 28, 1)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def change_one_label(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["y_train"][7] = (arrays["y_train"][7] + 1) % 10
    np.savez_compressed(path, **arrays)


def swap(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["x_train"], arrays["x_test"] = arrays["x_test"], arrays["x_train"]
    np.savez_compressed(path, **arrays)


def empty(path):
    path.write_bytes(b"")


def rename(path):
    with np.load(path) as file:
        arrays = {f"a_{name}": values for name, values in file.items()}
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize("damage", [cut, change_one_label, swap, empty, rename])
def test_a_damaged_data_file_is_refused(homework, data_file, damage):
    damage(data_file)
    with pytest.raises(ValueError, match=r"mnist\.npz.*delete"):
        homework.load_mnist()


def test_without_file_and_network_the_remedy_is_said(homework, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fail():
        raise Exception("URL fetch failure")  # as Keras raises it

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    remedy = r"URL fetch failure.*copy mnist.npz.*data/mnist\.npz"
    with pytest.raises(ValueError, match=remedy):
        homework.load_mnist()


# ------------------------------------------------------------------- targets, images


@pytest.mark.parametrize(
    "target",
    [
        HALF,
        [0, 0, 50, 50, 0, 0, 0, 0, 0, 0],  # percent
        [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 1 - 0.9 - 0.1],  # −2.8e-17
        np.array([HALF]),
    ],
)
def test_targets_are_taken_as_people_write_them(homework, target):
    np.testing.assert_allclose(homework.check_targets(target), [HALF], atol=1e-7)


def test_thirds_rounded_to_three_places_are_made_to_sum_to_one(homework):
    found = homework.check_targets([0.333, 0.333, 0.333, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(found[0, :3], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ([0.5] * 10, r"sum \[5\.\]"),
        ([0.5, 0.5], "got .0.5, 0.5., sum"),
        ([-0.5, 1.5] + [0] * 8, r"got \[-0\.5"),
        ([float("nan")] * 10, "nan"),
        ([], r"got \[\]"),
        (np.zeros((0, 10)), "shape=.0, 10."),
        (np.eye(10)[None], r"got array\(\[\[\["),
        (2, "got 2"),
        (["a"] * 10, "expected ten probabilities"),
        ([0] * 10, r"sum \[0\.\]"),
    ],
)
def test_other_targets_are_refused_with_what_came(homework, target, said):
    with pytest.raises(ValueError, match=said):
        homework.check_targets(target)


@pytest.fixture(scope="module")
def digit(mnist):
    """A 2, (28, 28) in [0, 1]."""
    return mnist[0][mnist[1] == 2][0, ..., 0]


def test_own_digits_are_taken_in_every_clear_form(homework, digit):
    expected = digit[None, ..., None]
    for pixels in (digit, digit[..., None], expected, (digit * 255).astype("uint8")):
        np.testing.assert_allclose(homework.read_digit(pixels), expected, atol=1e-6)
    np.testing.assert_allclose(homework.read_digit(1 - digit), expected, atol=1e-6)
    inverted = 255 - np.round(digit * 255)
    np.testing.assert_allclose(homework.read_digit(inverted), expected, atol=1e-6)
    ink = digit > 0.5
    np.testing.assert_array_equal(homework.read_digit(ink)[0, ..., 0], ink)
    np.testing.assert_array_equal(homework.read_digit(~ink)[0, ..., 0], ink)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x / 255, "stands out"),
        (lambda x: 0 * x, "stands out"),
        (lambda x: x * 1000, "from 0 to 255"),
        (lambda x: x - 0.5, "from 0 to 1"),
        (lambda x: np.where(x > 0, np.nan, x), "from 0 to 1"),
        (lambda x: x[:20], r"shape \(20, 28\)"),
        (lambda x: np.dstack([x, x, x]), r"shape \(28, 28, 3\)"),
    ],
)
def test_what_is_no_clear_digit_is_refused(homework, digit, change, said):
    with pytest.raises(ValueError, match=said):
        homework.read_digit(change(digit))


def test_as_many_targets_as_starts_are_asked_for(homework, linear_model):
    starts = homework.random_images([1, 2])
    with pytest.raises(ValueError, match="one for each of 2 starts, got 3"):
        homework.find_images(linear_model, None, np.eye(10)[:3], starts, 0)


# ---------------------------------------------------------------------- the model


@pytest.fixture
def saved(homework, linear_model, tmp_path):
    """A saved network, and the file."""
    file = tmp_path / "network.keras"
    linear_model.save(file)
    return file


def test_a_saved_network_comes_back(homework, linear_model, saved, mnist):
    images = mnist[0][:20]
    found = homework.load_network(saved)(images)
    np.testing.assert_allclose(found, linear_model(images), atol=1e-5)


def test_a_missing_model_is_named_with_the_remedy(homework, tmp_path):
    with pytest.raises(FileNotFoundError, match="run Part 1 with RETRAIN = True"):
        homework.load_network(tmp_path / "none.keras")


@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_model_that_ends_too_early_is_refused(homework, saved, part):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(part * len(content))])
    with pytest.raises(
        ValueError, match=r"could not read .*network\.keras: run Part 1"
    ):
        homework.load_network(saved)


def test_a_model_without_weights_is_refused(homework, saved):
    with zipfile.ZipFile(saved) as archive:
        parts = {n: archive.read(n) for n in archive.namelist() if "weights" not in n}
    with zipfile.ZipFile(saved, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="could not read"):
        homework.load_network(saved)


def dense_model(shape, units, activation=None, dtype="float32"):
    inputs = keras.Input(shape)
    flat = keras.layers.Flatten()(inputs)
    dense = keras.layers.Dense(units, activation=activation, dtype=dtype)
    return keras.Model(inputs, dense(flat))


def ends_with_a_softmax_layer():
    model = dense_model((28, 28, 1), 10)
    return keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))


@pytest.mark.parametrize(
    "build",
    [
        lambda: dense_model((28, 28), 10),
        lambda: dense_model((32, 32, 1), 10),
        lambda: dense_model((28, 28, 1), 9),
        lambda: dense_model((28, 28, 1), 10, "softmax"),
        ends_with_a_softmax_layer,
    ],
)
def test_another_kind_of_model_is_refused(homework, tmp_path, build):
    file = tmp_path / "other.keras"
    build().save(file)
    with pytest.raises(ValueError, match="to ten logits, got"):
        homework.load_network(file)


class History:
    """Stands in for what `fit` leaves on a model."""

    def __init__(self, accuracy, loss):
        self.history = {"val_accuracy": [accuracy], "loss": [loss]}


@pytest.mark.parametrize(
    ("accuracy", "loss"), [(0.1, 2.3), (0.9, float("nan")), (float("nan"), 1.0)]
)
def test_a_failed_training_leaves_the_good_file(homework, saved, accuracy, loss):
    before, network = saved.read_bytes(), homework.load_network(saved)
    network.history = History(accuracy, loss)
    with pytest.raises(ValueError, match=r"the training failed.*stays as it was"):
        homework.save_network(network, saved)
    assert saved.read_bytes() == before
    network.history = History(0.9, 0.5)
    homework.save_network(network, saved)
    assert saved.read_bytes() != before
    names = sorted(file.name for file in saved.parent.iterdir())
    assert names == ["network.json", "network.keras"]


@pytest.mark.parametrize("name", ["replace"])
def test_a_kill_before_the_rename_leaves_the_good_file(
    homework, saved, monkeypatch, name
):
    before, network = saved.read_bytes(), homework.load_network(saved)
    network.history = History(0.9, 0.5)

    def kill(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, name, kill)
    with pytest.raises(KeyboardInterrupt):
        homework.save_network(network, saved)
    assert saved.read_bytes() == before
