"""Import the functions of a notebook, so that no second copy of its code is needed.

A notebook's cells tagged `imports`, `parameters`, `derived` and `functions` make up a
module. It is written to a real file, because AutoGraph reads the source of what it
compiles.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

from execute_notebook import inject_parameters, read_notebook, tags
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
COMPANION = ROOT / "companion" / "DeepLearningAssignment.ipynb"

# The cells that make up the module, and those that it may have besides.
MODULE_TAGS = ("imports", "parameters", "derived", "functions")
OPTIONAL_TAGS = ("injected-parameters",)


def find_notebook() -> Path:
    """Return the one homework notebook at the top level.

    Raises:
        FileNotFoundError: There is none, or more than one.
    """
    found = sorted(ROOT.glob("Homework2_*.ipynb"))
    if len(found) != 1:
        names = [path.name for path in found]
        raise FileNotFoundError(
            f"expected one Homework2_*.ipynb in {ROOT.name}, got {names}"
        )
    return found[0]


def module_source(notebook: NotebookNode) -> str:
    """Return the code of all cells that carry one of `MODULE_TAGS`, in order.

    Raises:
        ValueError: One of the tags is on no cell.
    """
    cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and set(tags(cell)) & {*MODULE_TAGS, *OPTIONAL_TAGS}
    ]
    used = {tag for cell in cells for tag in tags(cell)}
    missing = [tag for tag in MODULE_TAGS if tag not in used]
    if missing:
        raise ValueError(f"no cell of the notebook is tagged {missing}: put it back")
    return "\n\n\n".join(cell.source for cell in cells) + "\n"


def import_functions(
    notebook: NotebookNode, folder: Path, name: str = "homework"
) -> ModuleType:
    """Import a notebook's functions from a file that is written into `folder`.

    Args:
        notebook: The notebook; its cells with one of `MODULE_TAGS` are run.
        folder: Where the file goes; it has to live as long as the module is used.
        name: The name of the module and of the file.
    """
    path = folder / f"{name}.py"
    path.write_text(module_source(notebook), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    return module


def import_beside(
    path: Path, name: str, parameters: dict[str, Any] | None = None
) -> ModuleType:
    """Import a notebook's functions, with the notebook's folder as working folder.

    Args:
        path: The notebook.
        name: The name of the module.
        parameters: Other values for names assigned in the cell tagged `parameters`.

    Raises:
        NotebookError: One of these is no parameter of the notebook.
    """
    notebook = inject_parameters(read_notebook(path), parameters or {})
    os.chdir(path.parent)
    folder = tempfile.TemporaryDirectory()
    module = import_functions(notebook, Path(folder.name), name)
    module.temporary_folder = folder  # lives as long as the module
    return module


def import_homework() -> ModuleType:
    """Import the homework notebook's functions, with the project as working folder."""
    return import_beside(find_notebook(), "homework")


def import_companion(parameters: dict[str, Any] | None = None) -> ModuleType:
    """Import the companion notebook's functions, with its folder as working folder."""
    return import_beside(COMPANION, "companion", parameters)
