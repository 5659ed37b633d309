"""One whole run of the homework notebook on small settings, all cells."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT, figures_of, run_notebook, texts_of
from make_submission import REHEARSAL
from run_notebook import find_faults

RESULTS = "results/optimized_images.npz"
OWN = "other_settings"  # where a run on small settings writes


def files_in(folder):
    """Return the content of every file below a folder, by its path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a whole run found the files as delivered and left its own."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole_run(folder):
    """That run."""
    return run_notebook(folder, REHEARSAL, copy=["data", "models", "results"])


def test_all_cells_run_and_their_outputs_are_clean(whole_run, folder):
    assert not find_faults(whole_run, folder)
    figures = figures_of(whole_run)
    assert len(figures) >= 20
    assert all(figure.metadata["image/png"]["alt"] for figure in figures)


def test_a_run_on_other_settings_leaves_what_was_delivered(whole_run, folder):
    for name in ("models", "results"):
        assert files_in(folder / name) == files_in(ROOT / name)
    networks = "mnist_cnn", "with_mixing", "without_mixing"
    names = {f"models/{x}.{kind}" for x in networks for kind in ("keras", "json")}
    names |= {RESULTS, "results/noise_to_digits.gif"}
    assert set(files_in(folder / OWN)) == names
    folders = {"data", "models", "results", OWN}
    assert {path.name for path in folder.iterdir()} == folders


def test_a_run_on_other_settings_says_which_they_are(whole_run):
    text = "\n".join(texts_of(whole_run.cells))
    for name, value in REHEARSAL.items():
        assert f"{name} = {value} (delivered: " in text
    assert f"goes to {OWN}/" in text


def test_networks_are_stored_with_what_they_were_made_with(whole_run, folder):
    assert "Epoch 2/2" in "\n".join(texts_of(whole_run.cells))
    for name in ("mnist_cnn", "with_mixing", "without_mixing"):
        stored = json.loads((folder / OWN / "models" / f"{name}.json").read_text())
        assert stored["made_with"]["training_images"] == REHEARSAL["TRAINING_IMAGES"]
        assert len(stored["history"]["val_accuracy"]) == stored["made_with"]["epochs"]


def test_every_run_of_every_experiment_is_stored(whole_run, folder):
    with np.load(folder / OWN / RESULTS) as file:
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
        "network": ((), "U"),
    }
    assert all(len(values) == number for values in stored.values())
    counts = Counter(stored["experiment"].tolist())
    assert counts["random"] == 10 * REHEARSAL["RUNS_PER_DIGIT"]
    assert counts["pairs"] == 135
    crossed = stored["experiment"] == "crossed"
    pairs = zip(stored["init"][crossed], stored["noise_seed"][crossed], strict=True)
    assert len(set(pairs)) == counts["crossed"] == 64  # every start meets every noise
    networks = Counter(stored["network"].tolist())
    short = {"short, with mixing": 200, "short, without mixing": 200}
    assert networks == short | {"this network": number - 400}


@pytest.mark.slow
def test_two_whole_runs_print_and_store_the_same(whole_run, folder, tmp_path):
    again = run_notebook(tmp_path, REHEARSAL, copy=["data"])
    assert texts_of(again.cells) == texts_of(whole_run.cells)
    files = (place / OWN / RESULTS for place in (folder, tmp_path))
    first, second = (dict(np.load(file)) for file in files)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
