"""The notebook of the second assignment, run whole on small settings."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import ROOT, texts_of
from notebooks import COMPANION, inject_parameters, read_notebook
from run_notebook import execute, find_faults

# Small numbers that every cell can still work with
TINY = dict(DESCENT_STEPS=40, DESCENT_STARTS=3, RANDOM_DRAWS=20)
TINY |= dict(TRAINING_IMAGES=600, VALIDATION_IMAGES=100, GRID_EPOCHS=1)
TINY |= dict(SEARCH_TRIALS=2, SEARCH_EPOCHS=1, SEARCH_IMAGES=250)
TINY |= dict(FINAL_EPOCHS=1, DENSE_STARTS=1, AUGMENTED_UNITS=16)


@pytest.mark.slow
def test_the_notebook_runs_alone_whatever_a_user_of_keras_has_set(
    tmp_path, monkeypatch
):
    shutil.copytree(ROOT / "data", tmp_path / "data")
    foreign = dict(backend="jax", floatx="float16", image_data_format="channels_first")
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(foreign))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    notebook = inject_parameters(read_notebook(COMPANION), TINY)
    executed = execute(notebook, tmp_path)
    assert not find_faults(executed, tmp_path)
    text = "\n".join(texts_of(executed.cells))
    assert "2 trials" in text
    assert "0 rows measured now, 0 kept" in text
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")}
    own = {name for name in files if not name.startswith("keras/")}
    assert own == {"data/mnist.npz"}
