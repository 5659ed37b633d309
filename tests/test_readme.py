"""The README's section on changing one part, followed word for word.

What it says to run, `test_runs.py` runs: Part 2 alone, a saved model without training,
all cells on small settings. `browser/test_jupyterlab.py` runs it by hand.
"""

from __future__ import annotations

import ast
import re
from copy import deepcopy

from conftest import ROOT, heading_paths
from execute_notebook import (
    assigned_names,
    digest_fault,
    has_code,
    headings_of,
    inject_parameters,
    tags,
)
from make_submission import REHEARSAL
from readme import advised_settings, point, section, settings_in

TITLE = "Change one part and run it again"


def parameters_of(notebook) -> dict:
    """Return the settings by name."""
    source = next(c.source for c in notebook.cells if "parameters" in tags(c))
    body = ast.parse(source).body
    return {s.targets[0].id: ast.literal_eval(s.value) for s in body}


def test_the_settings_stand_in_one_cell_near_the_top_each_with_its_unit(notebook):
    assert "in one cell near the top, each with its unit" in point(
        TITLE, "The settings"
    )
    places = [i for i, cell in enumerate(notebook.cells) if "parameters" in tags(cell)]
    assert len(places) == 1
    assert places[0] < 10
    lines = notebook.cells[places[0]].source.splitlines()
    settings = [line for line in lines if " = " in line]
    assert [line for line in settings if " # " in line] == settings


def test_every_setting_that_is_named_exists(notebook):
    named = settings_in(section(TITLE))
    assert {"RETRAIN", "EPOCHS"} <= set(named)
    assert not set(named) - set(parameters_of(notebook))


def test_part_2_finds_the_model_in_the_repository(notebook):
    advice = point(TITLE, "To work on Part 2 alone")
    order = ["*Setup*", "*Part 2*", "`models/mnist_cnn.keras`"]
    assert re.findall("|".join(map(re.escape, order)), advice) == order
    assert (ROOT / "models" / "mnist_cnn.keras").exists()  # as in a fresh clone
    headings = [heading for cell in notebook.cells for heading in headings_of(cell)]
    main = [text.split(":")[0] for level, text in headings if level == 2]
    assert [text for text in main if text in ("Setup", "Part 2")] == ["Setup", "Part 2"]


def test_retrain_decides_about_part_1_and_nothing_else(notebook):
    """So that a run of Part 1 without training stands for a run of everything."""
    assert "`RETRAIN = False`" in point(TITLE, "To run everything without training")
    assert parameters_of(notebook)["RETRAIN"] is True
    paths = heading_paths(notebook)
    users = {
        path[1]
        for cell, path in zip(notebook.cells, paths, strict=True)
        if has_code(cell)
        and not {"parameters", "functions", "derived"} & set(tags(cell))
        and re.search(r"\bRETRAIN\b", cell.source)
    }
    assert users == {"Part 1: Digit recognition using CNNs"}


def test_the_rehearsal_lowers_what_the_readme_says(notebook):
    defaults = parameters_of(notebook)
    lowered = advised_settings()
    assert len(lowered) >= 5
    assert all(REHEARSAL[name] < defaults[name] for name in lowered)
    assert inject_parameters(notebook, REHEARSAL) is not notebook


def test_the_playground_is_the_last_cell(notebook):
    assert "edit the last cell, *Playground*" in point(TITLE, "To ask for an image")
    assert has_code(notebook.cells[-1])
    assert heading_paths(notebook)[-1][-1] == "Playground"
    assert "MY_TARGET" in assigned_names(notebook.cells[-1].source)


def test_an_edit_of_code_is_noticed_and_one_of_prose_is_not(notebook):
    assert "carry a digest of the code" in point(TITLE, "`make format`")
    edited = deepcopy(notebook)
    edited.cells[0].source += "\nMore prose."
    assert digest_fault(edited) is None
    edited.cells[-1].source += "\nprint(1)"
    assert "the code was edited after its outputs were made" in digest_fault(edited)
