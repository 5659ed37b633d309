"""Run a notebook from top to bottom, in place.

    python tools/run_notebook.py                 # the homework
    python tools/run_notebook.py NOTEBOOK
    python tools/run_notebook.py NOTEBOOK --output PATH NAME=VALUE ...

The file is replaced after every cell has run, and stays as it was if one fails. The
cells run in the Python that runs this program, whatever kernel the notebook names. With
the outputs goes a digest of the code, but nothing of other programs: no times or paths.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if os.path.expanduser("~") == "~":  # no HOME, and a user that nobody knows
    os.environ["HOME"] = tempfile.gettempdir()

import nbformat
import notebooks
from IPython.core.displayhook import DisplayHook
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from notebooks import NotebookError

PRIVATE = re.compile(
    r"\b0x[0-9a-f]{6,}\b|(?<![\w.:/<-])/(?:home|root|tmp|Users)/\w|C:\\"
)
# Methods of matplotlib's whose answer, at the end of a cell, is shown as text
DRAWING = re.compile(
    "plot|scatter|barh?|hist|imshow|matshow|pcolormesh|contourf?|errorbar|fill_between|"
    "boxplot|violinplot|semilog[xy]|loglog|ax[hv](line|span)|legend|colorbar|"
    "set_[xy]ticks"
)


def titled_cells(notebook: NotebookNode) -> list[tuple[str, NotebookNode]]:
    """Return all code that runs, each cell after its number and first line."""
    cells = [cell for cell in notebook.cells if notebooks.has_code(cell)]
    return [
        (f"[{number}/{len(cells)}] {cell.source.strip().splitlines()[0]}", cell)
        for number, cell in enumerate(cells, start=1)
    ]


def code_digest(notebook: NotebookNode) -> str:
    """Return the SHA-256 of all code; lines that are comments alone do not count."""
    sources = [
        "\n".join(x for x in cell.source.splitlines() if not x.lstrip().startswith("#"))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def clean(notebook: NotebookNode) -> NotebookNode:
    """Return a copy without stderr and with the metadata that belong in a notebook."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        kept = notebooks.tags(cell)
        cell.metadata = {"tags": list(kept)} if kept else {}
        if cell.cell_type != "code":
            continue
        outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
        cell.outputs = []
        for output in outputs:
            last = cell.outputs[-1] if cell.outputs else {}
            if output.output_type == last.get("output_type") == "stream":
                last.text += output.text
                continue
            if "metadata" in output:
                alt = output.metadata.get("image/png", {}).get("alt")
                output.metadata = {"image/png": {"alt": alt}} if alt else {}
            cell.outputs.append(output)
    notebook.metadata = {
        "executed": notebook.metadata.get("executed", {}),
        "kernelspec": dict(display_name="Python 3", language="python", name="python3"),
        "language_info": {"name": "python", "file_extension": ".py"}
        | {"mimetype": "text/x-python", "pygments_lexer": "ipython3"},
    }
    return nbformat.from_dict(notebook)


def find_early_faults(notebook: NotebookNode) -> list[str]:
    """Return what would spoil the outputs of a run, as far as it shows in the code."""
    faults = []
    for title, cell in titled_cells(notebook):
        if "skip-execution" in notebooks.tags(cell):
            faults.append(f"{title}: its tag skip-execution leaves it out")
        silenced = DisplayHook.semicolon_at_end_of_expression
        match notebooks.statements(cell):
            case [*_, ast.Expr(ast.Call(ast.Attribute(attr=name)))]:
                if DRAWING.fullmatch(name) and not silenced(cell.source):
                    faults.append(f"{title}: end its last line, {name}(…), in ;")
    return faults


def find_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    """Return why the outputs are not those of one whole, clean run in the folder."""
    faults = []
    if clean(notebook) != notebook:
        faults.append("it holds stderr or metadata of an editor")
    stored = notebook.metadata.get("executed", {}).get("code_sha256")
    if stored != code_digest(notebook):
        faults.append("the code was edited after its outputs were made")
    for number, (title, cell) in enumerate(titled_cells(notebook), start=1):
        if cell.execution_count != number:
            faults.append(f"{title}: expected the execution count {number}")
        for output in cell.outputs:
            data = output.get("data", {}).items()
            shown = [str(x) for kind, x in data if not kind.startswith("image/")]
            text = "".join([output.get("text", ""), *shown])
            places = [x for x in (str(folder), os.path.expanduser("~")) if len(x) > 3]
            private = PRIVATE.search(text) or any(place in text for place in places)
            if output.output_type == "error" or private:
                faults.append(f"{title}: an error, a path or an address: {text:.80}")
    return faults


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in a new kernel, in `folder`; return a clean, executed copy.

    Raises:
        NotebookError: A cell failed, or Python did not start or ended too early.
    """
    notebook = copy.deepcopy(notebook)
    # Without folders to search, the one kernel is the Python that runs this program.
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=None,
        record_timing=False,
        force_raise_errors=True,
        extra_arguments=["--log-level=ERROR"],
        shutdown_kernel="immediate",  # an interrupt does not wait for a training
        resources={"metadata": {"path": str(folder)}},
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        environment = os.environ | {"IPYTHONDIR": profile, "PYTHONHASHSEED": "0"}
        environment.pop("MPLBACKEND", None)  # the kernel's own stores the figures
        place = "the start of Python"
        try:
            with client.setup_kernel(env=environment, cleanup_kc=True):
                process = manager.provisioner.process
                for place, cell in titled_cells(notebook):
                    print(f"{place} ... ", end="", flush=True)
                    start = time.monotonic()
                    client.execute_cell(cell, notebook.cells.index(cell))
                    print(f"{time.monotonic() - start:.1f} s", flush=True)
                nbformat.validate(notebook)
        except (CellExecutionError, RuntimeError, nbformat.ValidationError) as error:
            print(flush=True)  # ends the line of the cell
            reason = str(error).splitlines()[0]
            if isinstance(error, DeadKernelError):
                reason = f"Python ended {describe_end(process.returncode)}"
            if isinstance(error, CellExecutionError):  # without its colours
                reason = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback)
            raise NotebookError(f"{place}: {reason}") from error
    notebook.metadata["executed"] = {"code_sha256": code_digest(notebook)}
    return clean(notebook)


def describe_end(status: int) -> str:
    """Return in words how a process ended, from its return code."""
    if status >= 0:
        return f"with exit status {status}"
    memory = ": perhaps the memory ran out" if status == -9 else ""
    return f"by signal {-status} ({signal.strsignal(-status)}){memory}"


def check_place(path: Path) -> None:
    """Refuse a place that cannot take a file, before the work that makes the file."""
    try:
        if path.exists() and not path.is_file():
            raise NotebookError(f"{path} is a folder, a pipe or a device: name another")
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise NotebookError(f"cannot write to {path} ({error.strerror})") from error


def execute_file(path: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook file and write the result to `output`."""
    notebook, before = notebooks.read_notebook(path), path.read_bytes()
    notebook = notebooks.inject_parameters(notebook, parameters)
    in_place = output.resolve() == path.resolve()
    if parameters and in_place:
        raise NotebookError("other parameters need --output with another file")
    check_place(output)
    if faults := find_early_faults(notebook):
        raise NotebookError("\n  ".join([f"{path} was not run:", *faults]))
    start = time.monotonic()
    executed = execute(notebook, path.resolve().parent)
    content = (nbformat.writes(executed) + "\n").encode()
    faults = find_faults(executed, path.resolve().parent)
    try:
        if in_place and output.read_bytes() != before:
            faults.append("it was edited while it ran")
        if not faults:
            notebooks.replace_file(output, content)
    except OSError as error:
        faults.append(f"it could not be written ({error.strerror})")
    if faults:
        lines = "\n  ".join([f"{output} was left as it was:", *faults])
        raise NotebookError(f"{lines}\n{rescue(content)}")
    print(f"{time.monotonic() - start:.0f} s: wrote {output}")


def rescue(content: bytes) -> str:
    """Keep a run that could not go where it should; return one line that says where."""
    try:
        path = Path(tempfile.mkdtemp()) / "run.ipynb"
        notebooks.replace_file(path, content)
        return f"The run is in {path}"
    except OSError as error:
        return f"The run could not be kept in a temporary folder ({error.strerror})"


def parse_parameter(text: str) -> tuple[str, Any]:
    """Split `NAME=VALUE` into a name and a Python value."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        wanted = "NAME=VALUE with a value such as 3 or 'text'"
        raise NotebookError(f"expected {wanted}, got {text!r}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path, nargs="?", help="default: the homework")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path, help="default: the notebook itself")
    options = parser.parse_intermixed_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # headings that a terminal cannot show
    try:
        path = options.notebook or notebooks.find_homework()
        parameters = dict(map(parse_parameter, options.parameters))
        execute_file(path, options.output or path, parameters)
        return 0
    except (NotebookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted; the notebook was left as it was", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
