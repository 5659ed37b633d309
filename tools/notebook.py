"""Run a notebook from top to bottom, in place, or say whether its outputs are its own.

    python tools/notebook.py NOTEBOOK
    python tools/notebook.py NOTEBOOK --output PATH NAME=VALUE ...
    python tools/notebook.py NOTEBOOK --check

The file is replaced after every cell has run, and stays as it was if one fails. A
digest of the code is stored with the outputs, so that `--check` can tell whether they
still belong together. Nothing of other programs is kept: no names, times or paths.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment
if os.path.expanduser("~") == "~":  # no HOME, and a user that nobody knows
    os.environ["HOME"] = tempfile.gettempdir()

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
COMPANION = ROOT / "companion" / "DeepLearningAssignment.ipynb"
# What makes up the module of a notebook's functions
MODULE_TAGS = {"imports", "parameters", "injected-parameters", "derived", "functions"}
PRIVATE = re.compile(
    r"\b0x[0-9a-f]{6,}\b|(?<![\w.:/<-])/(?:home|root|tmp|Users)/\w|C:\\"
)


class NotebookError(Exception):
    """A notebook, or a request about it, that this program must refuse."""


def find_homework() -> Path:
    """Return the one homework notebook at the top level."""
    found = sorted(ROOT.glob("Homework2_*.ipynb"))
    if len(found) != 1:
        names = [path.name for path in found]
        raise NotebookError(f"expected one notebook Homework2_*.ipynb, found {names}")
    return found[0]


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook; a file that is none raises a NotebookError."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook
    except Exception as error:  # nbformat raises many kinds for what is no notebook
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotebookError(f"expected a notebook in {path}: {reason}") from error


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def has_code(cell: NotebookNode) -> bool:
    """Tell whether a cell runs: a code cell that is not blank."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def code_digest(notebook: NotebookNode) -> str:
    """Return the SHA-256 of all code; lines that are comments alone do not count."""
    sources = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            kept = [line for line in lines if not line.lstrip().startswith("#")]
            sources.append("\n".join(kept))
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def clean(notebook: NotebookNode) -> NotebookNode:
    """Return a copy without stderr and with the metadata that belong in a notebook."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        cell.metadata = {"tags": list(tags(cell))} if tags(cell) else {}
        if cell.cell_type != "code":
            continue
        outputs = []
        for output in cell.outputs:
            if output.output_type == "stream":
                if output.name == "stderr":
                    continue
                if outputs and outputs[-1].output_type == "stream":
                    outputs[-1].text += output.text
                    continue
            elif "metadata" in output:
                alt = output.metadata.get("image/png", {}).get("alt")
                output.metadata = {"image/png": {"alt": alt}} if alt else {}
            outputs.append(output)
        cell.outputs = outputs
    stored = notebook.metadata.get("executed", {}).get("code_sha256", "")
    notebook.metadata = {
        "executed": {"code_sha256": stored},
        "kernelspec": {"display_name": "Python 3", "language": "python"}
        | {"name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py"}
        | {"mimetype": "text/x-python", "pygments_lexer": "ipython3"},
    }
    return nbformat.from_dict(notebook)


def find_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    """Return why the outputs are not those of one whole, clean run of the code.

    Args:
        notebook: A notebook with its outputs.
        folder: Where it ran; its name must not stand in an output.
    """
    faults, number = [], 0
    if clean(notebook) != notebook:
        faults.append("it holds stderr or metadata of an editor")
    if notebook.metadata.get("executed", {}).get("code_sha256") != code_digest(
        notebook
    ):
        faults.append("the code was edited after its outputs were made")
    for cell in notebook.cells:
        if not has_code(cell):
            continue
        number += 1
        title = f"code cell {number} ({cell.source.splitlines()[0]})"
        if cell.execution_count != number:
            faults.append(f"{title}: expected the execution count {number}")
        for output in cell.outputs:
            text = output.get("text", "") + "".join(
                str(value)
                for kind, value in output.get("data", {}).items()
                if not kind.startswith("image/")
            )
            places = [x for x in (str(folder), os.path.expanduser("~")) if len(x) > 3]
            private = PRIVATE.search(text) or any(place in text for place in places)
            if output.output_type == "error" or private:
                faults.append(f"{title}: an error, a path or an address: {text:.80}")
    return faults


def inject_parameters(
    notebook: NotebookNode, parameters: dict[str, Any]
) -> NotebookNode:
    """Return a copy with other values for some parameters, in a cell of their own."""
    notebook = copy.deepcopy(notebook)
    if not parameters:
        return notebook
    cells = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    known = re.findall(r"^([A-Z0-9_]+)\b.* = ", cells[0].source, re.M) if cells else []
    if unknown := set(parameters) - set(known):
        raise NotebookError(f"no parameter {sorted(unknown)}; there are {known}")
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    cell = nbformat.v4.new_code_cell(source, id="injected-parameters")
    cell.metadata["tags"] = ["injected-parameters"]
    notebook.cells.insert(notebook.cells.index(cells[0]) + 1, cell)
    return notebook


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in a new kernel, in `folder`; return a clean, executed copy."""
    notebook = copy.deepcopy(notebook)
    total = sum(has_code(cell) for cell in notebook.cells)
    number, start = 0, time.monotonic()

    def begin(cell: NotebookNode, cell_index: int) -> None:
        nonlocal number, start
        number, start = number + 1, time.monotonic()
        title = cell.source.strip().splitlines()[0]
        print(f"[{number}/{total}] {title} ... ", end="", flush=True)

    def end(cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        print(f"{time.monotonic() - start:.1f} s", flush=True)

    client = NotebookClient(
        notebook,
        timeout=None,
        record_timing=False,
        force_raise_errors=True,
        extra_arguments=["--log-level=ERROR"],
        shutdown_kernel="immediate",  # an interrupt does not wait for a training
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=begin,
        on_cell_executed=end,
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        environment = os.environ | {"IPYTHONDIR": profile, "PYTHONHASHSEED": "0"}
        environment.pop("MPLBACKEND", None)  # the kernel's own stores the figures
        with client.setup_kernel(env=environment):
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
    notebook.metadata["executed"] = {"code_sha256": code_digest(notebook)}
    return clean(notebook)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then put it in place in one step."""
    path = path.resolve()  # a link stays a link
    temporary = path.with_name(f".{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def execute_file(path: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook file and write the result to `output`."""
    notebook, before = read_notebook(path), path.read_bytes()
    notebook = inject_parameters(notebook, parameters)
    if parameters and output.resolve() == path.resolve():
        raise NotebookError("other parameters need --output with another file")
    try:  # before the run: is there a place for the result?
        tempfile.TemporaryFile(dir=output.resolve().parent).close()
        if output.is_dir():
            raise NotebookError(f"expected a file for the result, {output} is a folder")
    except OSError as error:
        raise NotebookError(f"cannot write to {output} ({error.strerror})") from error
    start = time.monotonic()
    executed = execute(notebook, path.resolve().parent)
    text = nbformat.writes(executed) + "\n"
    faults = find_faults(executed, path.resolve().parent)
    try:
        if output.resolve() == path.resolve() and output.read_bytes() != before:
            faults.append("it was edited while it ran")
        if not faults:
            replace_file(output, text.encode())
    except OSError as error:
        faults.append(f"it could not be written ({error.strerror})")
    if faults:
        with tempfile.NamedTemporaryFile(suffix=".ipynb", delete=False) as file:
            file.write(text.encode())
        raise NotebookError(
            "\n  ".join([f"{output} was left as it was:", *faults])
            + f"\nThe run is in {file.name}"
        )
    print(f"{time.monotonic() - start:.0f} s: wrote {output}")


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


def parse_parameter(text: str) -> tuple[str, Any]:
    """Split `NAME=VALUE` into a name and a Python value."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise NotebookError(
            f"expected NAME=VALUE with a value such as 3 or 'text', got {text!r}"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path, help="default: the notebook itself")
    parser.add_argument("--check", action="store_true", help="run nothing")
    options = parser.parse_intermixed_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # headings that a terminal cannot show
    try:
        if options.check:
            notebook = read_notebook(options.notebook)
            faults = find_faults(notebook, options.notebook.resolve().parent)
            if faults:
                raise NotebookError("\n  ".join([f"{options.notebook}:", *faults]))
            print(f"{options.notebook}: the outputs are clean and belong to the code")
        else:
            parameters = dict(map(parse_parameter, options.parameters))
            execute_file(
                options.notebook, options.output or options.notebook, parameters
            )
        return 0
    except NotebookError as error:
        print(f"error: {error}", file=sys.stderr)
    except CellExecutionError as error:
        traceback = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback)  # its colours
        print(f"\n{traceback}\nThe notebook was left as it was.", file=sys.stderr)
    except RuntimeError as error:  # of nbclient: the kernel died or did not start
        print(f"\n{error}\nPython ended by itself: out of memory?", file=sys.stderr)
        print("The notebook was left as it was.", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted; the notebook was left as it was", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
