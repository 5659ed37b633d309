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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

from execute_notebook import read_notebook, tags
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent

# The cells that make up the module.
MODULE_TAGS = ("imports", "parameters", "derived", "functions")


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
        if cell.cell_type == "code" and set(tags(cell)) & set(MODULE_TAGS)
    ]
    used = {tag for cell in cells for tag in tags(cell)}
    missing = [tag for tag in MODULE_TAGS if tag not in used]
    if missing:
        raise ValueError(f"no cell of the notebook is tagged {missing}: put it back")
    return "\n\n\n".join(cell.source for cell in cells) + "\n"


def import_functions(notebook: NotebookNode, folder: Path) -> ModuleType:
    """Import a notebook's functions from a file that is written into `folder`."""
    path = folder / "homework.py"
    path.write_text(module_source(notebook), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("homework", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["homework"] = module
    with contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
    return module


def import_homework() -> ModuleType:
    """Import the homework notebook's functions, with the project as working folder."""
    os.chdir(ROOT)
    folder = tempfile.TemporaryDirectory()
    module = import_functions(read_notebook(find_notebook()), Path(folder.name))
    module.temporary_folder = folder  # lives as long as the module
    return module
