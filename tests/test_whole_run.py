"""One whole run of the homework notebook on small settings, all cells."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import run_notebook, texts_of
from make_submission import REHEARSAL
from run_notebook import find_faults

DATA = "data/mnist.npz"
MODEL = "models/mnist_cnn.keras"
RESULTS = "results/optimized_images.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a whole run with nothing but the data beside it left its files."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole_run(folder):
    """That run."""
    return run_notebook(folder, REHEARSAL, copy=[DATA])


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
    assert len(history["val_accuracy"]) == REHEARSAL["EPOCHS"]


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
    assert counts["random"] == 10 * REHEARSAL["RUNS_PER_DIGIT"]
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


@pytest.mark.slow
def test_two_whole_runs_print_and_store_the_same(whole_run, folder, tmp_path):
    again = run_notebook(tmp_path, REHEARSAL, copy=[DATA])
    assert texts_of(again.cells) == texts_of(whole_run.cells)
    with np.load(folder / RESULTS) as first, np.load(tmp_path / RESULTS) as second:
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
