"""What the tools, the tests and the benchmarks share about notebooks."""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.util
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
COMPANION = ROOT / "companion" / "DeepLearningAssignment.ipynb"
# What makes up the module of a notebook's functions
MODULE_TAGS = {"imports", "parameters", "injected-parameters", "derived", "functions"}


class NotebookError(Exception):
    """A notebook, or a request about it, that must be refused."""


def find_homework() -> Path:
    """Return the one homework notebook at the top level."""
    found = sorted(ROOT.glob("Homework2_*.ipynb"))
    if len(found) != 1:
        raise NotebookError(f"leave one Homework2_*.ipynb in {ROOT}, not {len(found)}")
    return found[0]


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook of format 4 as 4.5; what is none raises a NotebookError."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe may never end
            raise ValueError("it is a folder, a pipe or a device")
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return nbformat.v4.upgrade(notebook)  # gives the cells of older ones their ids
    except Exception as error:  # nbformat raises many kinds for what is no notebook
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotebookError(f"expected a notebook in {path}: {reason}") from error


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def has_code(cell: NotebookNode) -> bool:
    """Tell whether a cell runs: a code cell that is not blank."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def statements(cell: NotebookNode) -> list[ast.stmt]:
    """Return the statements of a code cell; none if it is not plain Python."""
    with contextlib.suppress(SyntaxError):
        return ast.parse(cell.source).body
    return []


def read_parameters(notebook: NotebookNode, tag: str = "parameters") -> dict[str, str]:
    """Return the settings in the cells with a tag, each as Python writes its value."""
    return {
        ast.unparse(name): ast.unparse(statement.value)
        for cell in notebook.cells
        if tag in tags(cell)
        for statement in statements(cell)
        if isinstance(statement, ast.Assign)
        for name in statement.targets
    }


def inject_parameters(
    notebook: NotebookNode, parameters: dict[str, Any]
) -> NotebookNode:
    """Return a copy with other values for some parameters, in a cell of their own."""
    notebook = copy.deepcopy(notebook)
    if not parameters:
        return notebook
    known = read_parameters(notebook)
    if unknown := set(parameters) - set(known):
        raise NotebookError(f"no parameter {sorted(unknown)}; there are {list(known)}")
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    own = {"parameters", "injected-parameters"}
    cells = [cell for cell in notebook.cells if own & set(tags(cell))]
    new = nbformat.v4.new_code_cell(source, id=f"injected-parameters-{len(cells)}")
    new.metadata["tags"] = ["injected-parameters"]
    notebook.cells.insert(notebook.cells.index(cells[-1]) + 1, new)
    return notebook


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then put it in place in one step."""
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def import_functions(
    path: Path, parameters: dict[str, Any] | None = None, name: str = "homework"
) -> ModuleType:
    """Import the cells tagged with one of `MODULE_TAGS` as a module."""
    notebook = inject_parameters(read_notebook(path), parameters or {})
    sources = [c.source for c in notebook.cells if MODULE_TAGS & set(tags(c))]
    folder = tempfile.TemporaryDirectory()  # a real file: AutoGraph reads its source
    file = Path(folder.name) / f"{name}.py"
    file.write_text("\n\n\n".join(sources) + "\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    module.temporary_folder = folder  # lives as long as the module
    return module
