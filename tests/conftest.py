"""What the tests share: the notebook, its functions as a module, and runs of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
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
    has_code,
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


def headings_of(cell: NotebookNode) -> list[tuple[int, str]]:
    """Return the (level, text) of every heading in a markdown cell."""
    if cell.cell_type != "markdown":
        return []
    text = re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S)
    return [(len(x), y) for x, y in re.findall(r"^(#{1,6}) (.+)$", text, re.M)]


def heading_paths(notebook: NotebookNode) -> list[tuple[str, ...]]:
    """Return for every cell the headings it stands under, outermost first."""
    paths = []
    open_headings: dict[int, str] = {}
    for cell in notebook.cells:
        for level, text in headings_of(cell):
            open_headings = {n: t for n, t in open_headings.items() if n < level}
            open_headings[level] = text
        paths.append(tuple(open_headings[level] for level in sorted(open_headings)))
    return paths


def under(*beginnings: str) -> Callable[[tuple[str, ...]], bool]:
    """Return a choice of cells: those under a heading that begins with one of these.

    Example: `run_notebook(tmp_path, {}, cells=under("Setup", "Part 2"))`
    """
    return lambda path: any(heading.startswith(beginnings) for heading in path)


def select_cells(
    notebook: NotebookNode, chosen: Callable[[tuple[str, ...]], bool]
) -> NotebookNode:
    """Return a copy with the cells whose path of headings is chosen."""
    notebook = deepcopy(notebook)
    paths = heading_paths(notebook)
    notebook.cells = [
        cell for cell, path in zip(notebook.cells, paths, strict=True) if chosen(path)
    ]
    if not any(map(has_code, notebook.cells)):
        headings = sorted({heading for path in paths for heading in path})
        pytest.fail(f"no code under the chosen headings; there are {headings}")
    return notebook


def repeat_cells(notebook: NotebookNode, times: int) -> NotebookNode:
    """Return a copy whose list of cells stands there several times."""
    notebook = deepcopy(notebook)
    once = notebook.cells
    notebook.cells = [deepcopy(cell) for _ in range(times) for cell in once]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def run_notebook(
    tmp_path: Path,
    parameters: dict[str, Any],
    *,
    cells: Callable[[tuple[str, ...]], bool] | None = None,
    copy: Sequence[str] = ("data/mnist.npz", "models"),
    repeat: int = 1,
) -> NotebookNode:
    """Run the homework notebook, or a part of it, in a folder of its own.

    Args:
        tmp_path: The folder to run in; files a test has put there stay.
        parameters: Other values for names assigned in the cell tagged `parameters`.
        cells: Told the headings above a cell, outermost first; says whether the cell
            runs. All cells run without it.
        copy: Files and folders of the project to put into the folder first.
        repeat: How many times the cells run, one pass after the other, in one kernel.

    Returns:
        The executed notebook; with `repeat`, its cells once for every pass.

    Raises:
        CellExecutionError: A cell failed.
    """
    path = find_homework()
    shutil.copy(path, tmp_path)
    for name in copy:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    notebook = read_notebook(tmp_path / path.name)
    if parameters:
        notebook = inject_parameters(notebook, parameters)
    if cells:
        notebook = select_cells(notebook, cells)
    if repeat > 1:
        notebook = repeat_cells(notebook, repeat)
    return execute(notebook, tmp_path)


def make_notebook(*sources: str | tuple[str, str]) -> NotebookNode:
    """Return a small notebook: text makes markdown after `#`, else a code cell.

    A pair is a code cell and its tag. Ids count up, so that the same sources always
    make the same notebook.
    """
    notebook = nbformat.v4.new_notebook()
    for number, source in enumerate(sources):
        name = f"cell-{number}"
        if isinstance(source, tuple):
            cell = nbformat.v4.new_code_cell(source[0], id=name)
            cell.metadata["tags"] = [source[1]]
        elif source.startswith("# "):
            cell = nbformat.v4.new_markdown_cell(source, id=name)
        else:
            cell = nbformat.v4.new_code_cell(source, id=name)
        notebook.cells.append(cell)
    return notebook
