"""What people can get wrong in the homework: refused before any long work, and why."""

from __future__ import annotations

import json
import os
import shutil
import socket
import urllib.request
from types import SimpleNamespace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT
from notebooks import find_homework, import_functions, read_parameters

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
        ({"TRAINING_IMAGES": 60_000}, "TRAINING_IMAGES: int from 1000 to 55000"),
        ({"SOFT_STEPS": True}, "SOFT_STEPS: int from 40 to 100000, got True"),
        ({"LEARNING_RATE": "0.1"}, "LEARNING_RATE: float from 1e-06 to 1.0, got '0.1'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(start, setting, said):
    with pytest.raises(ValueError, match=r"Change it in the cell of settings") as error:
        start(**setting)
    assert said in str(error.value)


def test_every_setting_is_checked_and_stands_as_delivered(homework, notebook):
    assert set(read_parameters(notebook)) == set(homework.LIMITS)
    assert homework.changed == []


def test_other_settings_write_into_a_folder_of_their_own(start, tmp_path):
    delivered, other = start(), start(SEED=1, STEPS=300)
    assert (str(delivered.MODELS), str(delivered.RESULTS)) == ("models", "results")
    assert other.MODELS.parts == ("other_settings", "models")
    assert other.RESULTS.parts == ("other_settings", "results")
    differ = ["SEED = 1 (delivered: 2025)", "STEPS = 300 (delivered: 200)"]
    assert other.changed == differ


def test_a_saved_network_that_is_not_there_is_missed_at_once(start):
    with pytest.raises(ValueError, match="no network in models/ to use: set RETRAIN"):
        start(RETRAIN=False)


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


@pytest.mark.parametrize(
    ("place", "name", "other", "said"),
    [
        (keras.config, "backend", lambda: "jax", "Keras on TensorFlow: restart"),
        (keras, "__version__", "3.9.2", r"Keras 3\.10 or newer, got 3\.9\.2"),
    ],
)
def test_another_keras_is_refused(start, monkeypatch, place, name, other, said):
    monkeypatch.setattr(place, name, other)
    with pytest.raises(ImportError, match=said):
        start()


# --------------------------------------------------------------------------- the data


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def change_one_label(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["y_train"][7] = (arrays["y_train"][7] + 1) % 10
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize("damage", [cut, change_one_label])
def test_a_damaged_data_file_is_refused(homework, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    homework.DATA_FILE.parent.mkdir()
    shutil.copy(ROOT / homework.DATA_FILE, homework.DATA_FILE)
    damage(homework.DATA_FILE)
    with pytest.raises(ValueError, match=r"mnist\.npz.*delete"):
        homework.load_mnist()


def test_a_network_that_never_answers_is_given_up(homework, tmp_path, monkeypatch):
    """A server takes the connection and stays silent; 30 seconds pass in 0.2."""
    monkeypatch.chdir(tmp_path)
    server = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(
        keras.datasets.mnist, "load_data", lambda: urllib.request.urlopen(address)
    )
    asked, wait = [], socket.setdefaulttimeout

    def be_quick(seconds):
        asked.append(seconds)
        wait(seconds and 0.2)

    monkeypatch.setattr(socket, "setdefaulttimeout", be_quick)
    remedy = r"could not read Keras's copy.*copy mnist.npz.*data/mnist\.npz"
    with server, pytest.raises(ValueError, match=remedy):
        homework.load_mnist()
    assert asked == [30, None]  # as before, for whatever comes next
    assert socket.getdefaulttimeout() is None


# ----------------------------------------------------------------- the saved network


@pytest.fixture
def run_cell(notebook, tmp_path):
    """Runs the one cell with a title in a module, with the data beside it."""
    (tmp_path / "data").symlink_to(ROOT / "data")

    def run(module, title):
        (source,) = [x.source for x in notebook.cells if x.source.startswith(title)]
        exec(source, vars(module))

    return run


def store_network(folder, network):
    """Leave a network as Part 1 would, made with seed 7 from 2,000 images."""
    folder.mkdir(exist_ok=True)
    network.save(folder / "mnist_cnn.keras")
    made_with = dict(seed=7, training_images=2_000, epochs=1, learning_rate=1e-3)
    content = json.dumps(dict(made_with=made_with, history={}))
    (folder / "mnist_cnn.json").write_text(content)


def test_a_saved_network_keeps_its_validation_images(
    start, run_cell, tmp_path, linear_model
):
    store_network(tmp_path / "models", linear_model)
    module = start(RETRAIN=False, SEED=1)
    run_cell(module, "# Hold 5,000 images out")
    order = np.random.default_rng(7).permutation(60_000)
    digits = module.load_mnist()[0]
    np.testing.assert_array_equal(module.validation[0], digits[order[:5_000]])
    np.testing.assert_array_equal(module.training[0], digits[order[5_000:7_000]])


def test_part_2_refuses_a_network_made_with_other_settings(
    start, run_cell, linear_model
):
    title = "# The digits, the network that Part 1 saved"
    module = start(SEED=1)
    message = r"no other_settings.models.mnist_cnn\.keras: run Part 1 with RETRAIN"
    with pytest.raises(FileNotFoundError, match=message):
        run_cell(module, title)
    store_network(module.MODELS, linear_model)
    with pytest.raises(ValueError, match=r"'seed': 1,.*'seed': 7,.*: run Part 1"):
        run_cell(module, title)


# ------------------------------------------------------------------- targets, images


@pytest.mark.parametrize(
    "target",
    [
        [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 1 - 0.9 - 0.1],  # −2.8e-17
        [0, 0, 0.499, 0.499, 0, 0, 0, 0, 0, 0],
        np.array([HALF]),
    ],
)
def test_targets_are_taken_as_people_write_them(homework, target):
    np.testing.assert_allclose(homework.check_targets(target), [HALF], atol=1e-7)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ([0.5] * 10, r"got \[0\.5"),
        ([0, 0, 50, 50, 0, 0, 0, 0, 0, 0], "got .0, 0, 50"),
        ([0.5, 0.5], "got .0.5, 0.5."),
        ([-0.5, 1.5] + [0] * 8, r"got \[-0\.5"),
        ([float("nan")] * 10, "nan"),
        (np.zeros((0, 10)), "shape=.0, 10."),
        (np.eye(10)[None], r"got array\(\[\[\["),
        (["a"] * 10, "expected ten probabilities"),
    ],
)
def test_other_targets_are_refused_with_what_came(homework, target, said):
    with pytest.raises(ValueError, match=said):
        homework.check_targets(target)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[0],
        lambda x: x[:0],
        lambda x: x * 255,
        lambda x: x - 0.1,
        lambda x: np.where(x > 0.5, np.nan, x),
    ],
)
def test_starts_that_are_no_images_are_refused(homework, change):
    starts = homework.random_images([1, 2])
    np.testing.assert_array_equal(homework.check_starts(starts), starts)
    with pytest.raises(ValueError, match=r"\(n, 28, 28, 1\) from 0 to 1, got shape"):
        homework.check_starts(change(starts))


def test_as_many_targets_as_starts_are_asked_for(homework, linear_model):
    starts = homework.random_images([1, 2])
    with pytest.raises(ValueError, match="one for each of 2 starts, got 3"):
        homework.find_images(linear_model, None, np.eye(10)[:3], starts, 0, 40)


# ------------------------------------------------------------------------ own digits


@pytest.fixture(scope="module")
def digit(mnist):
    """A 2, (28, 28) in [0, 1]."""
    return mnist[0][mnist[1] == 2][0, ..., 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: np.uint8(x * 255),
        lambda x: x[..., None] - 0.5,
        lambda x: 255 - 200 * x,  # ink on white paper
        lambda x: 0.7 - 0.002 * x,  # hardly any contrast, on gray paper
    ],
)
def test_own_digits_are_taken_on_paper_of_any_shade(homework, digit, change):
    found = homework.read_digit(change(digit))
    assert found.shape == (1, 28, 28, 1)
    np.testing.assert_allclose(found[0, ..., 0], digit, atol=5e-3)


def test_the_grain_of_paper_becomes_black(homework, digit):
    grain = np.random.default_rng(1).normal(0, 0.02, digit.shape)
    found = homework.read_digit(0.8 - 0.5 * digit + grain)[0, ..., 0]
    assert np.all(found[[0, -1]] == 0)
    assert np.mean(found[digit == 0] == 0) > 0.98
    assert np.abs(found - digit).max() < 0.2


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.pad(x[1:-1, 1:-1], 1, constant_values=0.5),  # a frame
        lambda x: np.where(x > 0, x, np.linspace(0, 1, 28)),  # a shadow
        lambda x: 0 * x + 0.5,
        lambda x: np.where(x > 0.5, np.nan, x),
        lambda x: x[:20],
        lambda x: np.dstack([x, x, x]),
    ],
)
def test_what_is_no_digit_on_even_paper_is_refused(homework, digit, change):
    with pytest.raises(ValueError, match="28 × 28 pixels with a digit on even paper"):
        homework.read_digit(change(digit))


# ---------------------------------------------------------------------- the model


@pytest.fixture
def saved(homework, linear_model, tmp_path):
    """A saved network, and the file."""
    file = tmp_path / "network.keras"
    linear_model.save(file)
    return file


def test_a_model_that_ends_too_early_is_refused(homework, saved):
    saved.write_bytes(saved.read_bytes()[:-1000])
    message = r"could not read .*network\.keras: run Part 1"
    with pytest.raises(ValueError, match=message):
        homework.load_network(saved)


def dense_model(shape, units, activation=None):
    inputs = keras.Input(shape)
    flat = keras.layers.Flatten()(inputs)
    dense = keras.layers.Dense(units, activation=activation)
    return keras.Model(inputs, dense(flat))


def ends_with_a_softmax_layer():
    model = dense_model((28, 28, 1), 10)
    return keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))


@pytest.mark.parametrize(
    "build",
    [
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


def end_of_training(accuracy, loss):
    """What `fit` leaves on a model."""
    return SimpleNamespace(history={"val_accuracy": [accuracy], "loss": [loss]})


@pytest.mark.parametrize(
    ("accuracy", "loss"), [(0.1, 2.3), (0.9, float("nan")), (float("nan"), 1.0)]
)
def test_a_failed_training_leaves_the_good_file(homework, saved, accuracy, loss):
    before, network = saved.read_bytes(), homework.load_network(saved)
    network.history = end_of_training(accuracy, loss)
    with pytest.raises(ValueError, match=r"the network guesses.*stays as it was"):
        homework.save_network(network, saved, {})
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_a_network_is_saved_with_what_it_was_made_with(homework, saved):
    before, network = saved.read_bytes(), homework.load_network(saved)
    network.history = end_of_training(0.9, 0.5)
    homework.save_network(network, saved, dict(seed=7, learning_rate=2e-3))
    assert saved.read_bytes() != before
    stored = json.loads(saved.with_suffix(".json").read_text())
    assert stored["made_with"] == dict(seed=7, learning_rate=2e-3)
    assert stored["history"] == dict(val_accuracy=[0.9], loss=[0.5])
    names = {file.name for file in saved.parent.iterdir()}
    assert names == {"network.json", "network.keras"}


def test_a_kill_before_the_rename_leaves_the_good_file(homework, saved, monkeypatch):
    before, network = saved.read_bytes(), homework.load_network(saved)
    network.history = end_of_training(0.9, 0.5)

    def kill(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        homework.save_network(network, saved, {})
    assert saved.read_bytes() == before
