"""The homework notebook as a grader and a student run it, on small settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_notebook, select_cells, under
from execute_notebook import find_faults, has_code
from nbclient.exceptions import CellExecutionError

TINY = dict(TRAINING_IMAGES=5_000, EPOCHS=2, STEPS=40, SOFT_STEPS=40, RUNS_PER_DIGIT=10)
DATA = "data/mnist.npz"
MODEL = "models/mnist_cnn.keras"
RESULTS = "results/optimized_images.npz"
START_OF_PART_2 = (
    "Setup",
    "1. Read your data, 2. Load your model",
    "The loss and the constraints",
    "3a. Create a random image",
)


def texts_of(cells) -> list[str]:
    """Return what cells printed and their tables, without durations."""
    texts = []
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = output.get("text") or data.get("text/markdown", "")
            texts += re.sub(r"\d+ ?m?s(?![a-z])", "", text).splitlines()
    return texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a whole run with nothing but the data beside it left its files."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole_run(folder):
    """That run."""
    return run_notebook(folder, TINY, copy=[DATA])


def test_all_cells_run_and_their_outputs_are_clean(whole_run, folder):
    assert not find_faults(whole_run, folder)
    figures = [
        output
        for cell in whole_run.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(figures) >= 15  # though the environment names another backend, Agg
    assert all(figure.metadata["image/png"]["alt"] for figure in figures)


def test_a_run_writes_models_and_results_and_nothing_else(whole_run, folder):
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    names = {path for path in files if not path.startswith("Homework2_")}
    models = {MODEL, "models/mnist_cnn.json"}
    models |= {"models/control.keras", "models/control.json"}
    assert names == {DATA, RESULTS} | models
    history = json.loads((folder / "models/mnist_cnn.json").read_text())
    assert len(history["val_accuracy"]) == TINY["EPOCHS"]


def test_the_epochs_of_the_training_are_printed(whole_run):
    lines = "\n".join(
        output.text
        for cell in whole_run.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )
    assert "Epoch 2/2" in lines
    assert "val_accuracy" in lines


def test_every_run_of_every_experiment_is_stored(homework, whole_run, folder):
    with np.load(folder / RESULTS) as file:
        stored = dict(file)
    number = len(stored["images"])
    assert {name: (x.shape[1:], x.dtype.kind) for name, x in stored.items()} == {
        "images": ((28, 28), "u"),
        "targets": ((10,), "f"),
        "probabilities": ((10,), "f"),
        "experiment": ((), "U"),
        "init": ((), "U"),
        "seed": ((), "i"),
        "noise_seed": ((), "i"),
    }
    assert all(len(values) == number for values in stored.values())
    counts = dict(
        zip(*np.unique(stored["experiment"], return_counts=True), strict=True)
    )
    assert counts["random"] == 10 * TINY["RUNS_PER_DIGIT"]
    assert counts["crossed"] == 64
    assert counts["pairs"] == 45
    np.testing.assert_allclose(stored["targets"].sum(axis=1), 1, atol=1e-6)
    own = stored["experiment"] != "without noise in training"
    network = homework.load_network(folder / MODEL)
    logits = network.predict(homework.to_images(stored["images"][own]), verbose=0)
    answers = homework.tf.nn.softmax(logits)
    np.testing.assert_allclose(answers, stored["probabilities"][own], atol=1e-3)


def test_in_the_crossed_experiment_every_start_meets_every_noise(whole_run, folder):
    with np.load(folder / RESULTS) as file:
        crossed = file["experiment"] == "crossed"
        pairs = zip(file["init"][crossed], file["noise_seed"][crossed], strict=True)
        assert len(set(pairs)) == 64


# ------------------------------------------------------------------ parts of it alone


def test_part_2_starts_alone_with_the_model_of_the_project(tmp_path):
    run_notebook(tmp_path, {}, cells=under(*START_OF_PART_2))


def test_without_a_model_part_2_says_which_part_makes_it(tmp_path):
    with pytest.raises(CellExecutionError, match="run Part 1 with RETRAIN = True"):
        run_notebook(tmp_path, {}, cells=under(*START_OF_PART_2), copy=[DATA])


def test_settings_of_a_user_of_keras_change_nothing(tmp_path, monkeypatch):
    home = tmp_path / "keras"
    home.mkdir()
    foreign = dict(backend="jax", floatx="float16", image_data_format="channels_first")
    (home / "keras.json").write_text(json.dumps(foreign | dict(epsilon=0.1)))
    cells = under(*START_OF_PART_2)
    for name in ("plain", "foreign"):
        (tmp_path / name).mkdir()
    plain = run_notebook(tmp_path / "plain", {}, cells=cells)
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    other = run_notebook(tmp_path / "foreign", {}, cells=cells)
    assert texts_of(other.cells) == texts_of(plain.cells)


def test_a_script_made_from_the_notebook_runs(notebook, tmp_path):
    cells = select_cells(notebook, under(*START_OF_PART_2)).cells
    script = "\n\n".join(cell.source for cell in cells if has_code(cell))
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    for name in ("data", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------- slow ones


@pytest.mark.slow
def test_two_whole_runs_print_and_store_the_same(whole_run, folder, tmp_path):
    again = run_notebook(tmp_path, TINY, copy=[DATA])
    assert texts_of(again.cells) == texts_of(whole_run.cells)
    with np.load(folder / RESULTS) as first, np.load(tmp_path / RESULTS) as second:
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.slow
def test_cells_that_run_twice_in_one_kernel_print_the_same(tmp_path):
    notebook = run_notebook(
        tmp_path, TINY | dict(RETRAIN=False), cells=under("Setup", "Part 2"), repeat=2
    )
    half = len(notebook.cells) // 2
    first, second = notebook.cells[:half], notebook.cells[half:]
    for one, other in zip(first, second, strict=True):
        if has_code(one):
            assert texts_of([one]) == texts_of([other]), one.source


@pytest.mark.slow
def test_a_saved_model_is_reported_and_used_without_training(tmp_path):
    notebook = run_notebook(tmp_path, TINY | dict(RETRAIN=False))
    assert "Epoch" not in "\n".join(texts_of(notebook.cells))
    assert (tmp_path / MODEL).read_bytes() == (ROOT / MODEL).read_bytes()
