"""What the tests share: the notebook, its functions as a module, and runs of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

# Both before anything imports TensorFlow or matplotlib.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["MPLBACKEND"] = "Agg"

import nbformat
import pytest
from nbformat import NotebookNode
from notebooks import (
    ROOT,
    find_homework,
    import_functions,
    inject_parameters,
    read_notebook,
)
from run_notebook import execute


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest; the others fill the second process."""
    items.sort(key=lambda item: item.path.name != "test_whole_run.py")


@pytest.fixture(scope="session")
def notebook_path() -> Path:
    """The homework notebook's file."""
    return find_homework()


@pytest.fixture(scope="session")
def notebook(notebook_path: Path) -> NotebookNode:
    """The homework notebook as committed; tests do not change it."""
    return read_notebook(notebook_path)


@pytest.fixture(scope="session")
def homework(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The functions, parameters and derived values of the notebook, as a module."""
    folder = tmp_path_factory.mktemp("homework")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the cells make their folders
        return import_functions(find_homework())


@pytest.fixture(scope="session")
def mnist(homework: ModuleType) -> tuple[Any, ...]:
    """Digits, labels, test digits, test labels; tests do not change them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return homework.load_mnist()


@pytest.fixture(scope="session")
def linear_model(homework: ModuleType) -> Any:
    """A small classifier, linear in the pixels; tests do not change it."""
    keras = homework.keras
    keras.utils.set_random_seed(1)
    inputs = keras.Input((28, 28, 1))
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(flat))


def texts_of(cells: list[NotebookNode]) -> list[str]:
    """Return what cells printed and their tables, without durations."""
    texts = []
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = output.get("text") or data.get("text/markdown", "")
            texts += re.sub(r"\d+ ?m?s(?![a-z])", "", text).splitlines()
    return texts


def figures_of(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the outputs of a notebook that are pictures."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def select_cells(notebook: NotebookNode, *beginnings: str) -> NotebookNode:
    """Return a copy with the sections whose headings begin with one of these."""
    notebook = deepcopy(notebook)
    cells, notebook.cells, chosen = notebook.cells, [], 0  # level of the open section
    for cell in cells:
        text = cell.source if cell.cell_type == "markdown" else ""
        for marks, heading in re.findall(r"^(#+) (.+)$", text, re.M):
            if len(marks) <= chosen:
                chosen = 0
            if not chosen and heading.startswith(beginnings):
                chosen = len(marks)
        if chosen:
            notebook.cells.append(cell)
    assert len(notebook.cells) > len(beginnings), "no code under these headings"
    return notebook


def run_notebook(
    folder: Path,
    parameters: dict[str, Any],
    *beginnings: str,
    copy: Sequence[str] = ("data", "models"),
    repeat: int = 1,
) -> NotebookNode:
    """Run the homework notebook, or some sections of it, in a folder of its own.

    Args:
        folder: The folder to run in; files a test has put there stay.
        parameters: Other values for names assigned in the cell tagged `parameters`.
        beginnings: Of the headings of the sections that run; all without any.
        copy: Folders of the project to put into the folder first.
        repeat: How many times the cells run, one pass after the other, in one kernel.
    """
    for name in copy:
        shutil.copytree(ROOT / name, folder / name)
    notebook = inject_parameters(read_notebook(find_homework()), parameters)
    if beginnings:
        notebook = select_cells(notebook, *beginnings)
    notebook.cells = [deepcopy(cell) for _ in range(repeat) for cell in notebook.cells]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return execute(notebook, folder)


def make_notebook(*sources: str | tuple[str, str]) -> NotebookNode:
    """Return a small notebook: text makes markdown after `#`, else a code cell.

    A pair is a code cell and its tag. Ids count up, so that the same sources always
    make the same notebook.
    """
    notebook = nbformat.v4.new_notebook()
    for number, source in enumerate(sources):
        text, *tags = [source] if isinstance(source, str) else source
        markdown = text.startswith("# ")
        new = nbformat.v4.new_markdown_cell if markdown else nbformat.v4.new_code_cell
        cell = new(text, id=f"cell-{number}", metadata={"tags": tags} if tags else {})
        notebook.cells.append(cell)
    return notebook
