"""Parts of the homework notebook, run alone or again, as a student runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT, run_notebook, select_cells, texts_of, under
from make_submission import REHEARSAL
from nbclient.exceptions import CellExecutionError
from notebooks import has_code

START_OF_PART_2 = (
    "Setup",
    "1. Read your data, 2. Load your model",
    "The loss and the constraints",
    "3a. Create a random image",
)
MODEL = "models/mnist_cnn.keras"


def test_part_2_starts_alone_with_the_model_of_the_project(tmp_path):
    run_notebook(tmp_path, {}, cells=under(*START_OF_PART_2))


def test_without_a_model_part_2_says_which_part_makes_it(tmp_path):
    with pytest.raises(CellExecutionError, match="run Part 1 with RETRAIN = True"):
        run_notebook(
            tmp_path, {}, cells=under(*START_OF_PART_2), copy=["data/mnist.npz"]
        )


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


@pytest.mark.slow
def test_cells_that_run_twice_in_one_kernel_print_the_same(tmp_path):
    notebook = run_notebook(
        tmp_path,
        REHEARSAL | dict(RETRAIN=False),
        cells=under("Setup", "Part 2"),
        repeat=2,
    )
    half = len(notebook.cells) // 2
    first, second = notebook.cells[:half], notebook.cells[half:]
    for one, other in zip(first, second, strict=True):
        if has_code(one):
            assert texts_of([one]) == texts_of([other]), one.source


@pytest.mark.slow
def test_a_saved_model_is_reported_and_used_without_training(tmp_path):
    notebook = run_notebook(tmp_path, REHEARSAL | dict(RETRAIN=False))
    assert "Epoch" not in "\n".join(texts_of(notebook.cells))
    assert (tmp_path / MODEL).read_bytes() == (ROOT / MODEL).read_bytes()
