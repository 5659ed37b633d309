"""Parts of the homework notebook, run alone or again, as a student runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT, figures_of, run_notebook, select_cells, texts_of
from make_submission import REHEARSAL
from notebooks import has_code
from run_notebook import execute

START_OF_PART_2 = (
    "Setup",
    "1. Read your data, 2. Load your model",
    "The loss and the constraints",
    "3a. Create a random image",
)
MODEL = "models/mnist_cnn.keras"
REPORT = "3. Report the training and test performances"


def test_part_2_starts_alone_whatever_a_user_of_keras_has_set(
    notebook, tmp_path, monkeypatch
):
    home = tmp_path / "keras"
    home.mkdir()
    foreign = dict(backend="jax", floatx="float16", image_data_format="channels_first")
    (home / "keras.json").write_text(json.dumps(foreign | dict(epsilon=0.1)))
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    found = run_notebook(tmp_path, {}, *START_OF_PART_2)
    committed = select_cells(notebook, *START_OF_PART_2[1:])
    assert set(texts_of(committed.cells)) <= set(texts_of(found.cells))
    assert len(figures_of(found)) == len(figures_of(committed)) > 0


@pytest.mark.parametrize(
    "choice",
    [
        "import os\nos.environ['MPLBACKEND'] = 'no such backend'",
        "import matplotlib\nmatplotlib.use('svg')\nimport matplotlib.pyplot",
    ],
)
def test_figures_appear_whatever_backend_was_chosen(notebook, tmp_path, choice):
    notebook = select_cells(notebook, "Setup")
    before = nbformat.v4.new_code_cell(choice)
    after = nbformat.v4.new_code_cell("show_digits([np.eye(28)[None, ..., None]], '')")
    notebook.cells = [before, *notebook.cells, after]
    assert len(figures_of(execute(notebook, tmp_path))) == 1


def test_a_script_made_from_the_notebook_runs(notebook, tmp_path):
    cells = select_cells(notebook, "Setup", "1. Read your data").cells
    script = "\n\n".join(cell.source for cell in cells if has_code(cell))
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    for name in ("data", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory):
    """All cells twice in one kernel, with the saved networks and another seed."""
    folder = tmp_path_factory.mktemp("saved")
    settings = REHEARSAL | dict(RETRAIN=False, SEED=1)
    notebook = run_notebook(folder, settings, repeat=2)
    half = len(notebook.cells) // 2
    passes = notebook.cells[:half], notebook.cells[half:]
    return folder, *(nbformat.v4.new_notebook(cells=cells) for cells in passes)


@pytest.mark.slow
def test_cells_that_run_twice_in_one_kernel_print_the_same(saved_run):
    _, first, second = saved_run
    for one, other in zip(first.cells, second.cells, strict=True):
        if has_code(one):
            assert texts_of([one]) == texts_of([other]), one.source


@pytest.mark.slow
def test_a_saved_network_is_used_untrained_and_reported_as_delivered(
    saved_run, notebook
):
    folder, found, _ = saved_run
    assert (folder / MODEL).read_bytes() == (ROOT / MODEL).read_bytes()
    reports = [texts_of(select_cells(x, REPORT).cells) for x in (found, notebook)]
    assert reports[0] == reports[1]  # on the same images held out
