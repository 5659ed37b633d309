"""Run a notebook from top to bottom, in place, or say whether its outputs are its own.

    python tools/run_notebook.py                 # the homework
    python tools/run_notebook.py NOTEBOOK
    python tools/run_notebook.py NOTEBOOK --output PATH NAME=VALUE ...
    python tools/run_notebook.py NOTEBOOK --check

The file is replaced after every cell has run, and stays as it was if one fails. The
cells run in the Python that runs this program, whatever kernel the notebook names. A
digest of the code and the settings are stored with the outputs, so that `--check` can
tell whether they still belong together. Nothing of other programs is kept: no names,
times or paths.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if os.path.expanduser("~") == "~":  # no HOME, and a user that nobody knows
    os.environ["HOME"] = tempfile.gettempdir()

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from notebooks import (
    NotebookError,
    find_homework,
    has_code,
    inject_parameters,
    read_notebook,
    read_parameters,
    replace_file,
    statements,
    tags,
)

PRIVATE = re.compile(
    r"\b0x[0-9a-f]{6,}\b|(?<![\w.:/<-])/(?:home|root|tmp|Users)/\w|C:\\"
)
# Methods of matplotlib's whose answer, at the end of a cell, is shown as text
DRAWING = re.compile(
    "plot|scatter|barh?|hist|imshow|matshow|pcolormesh|contourf?|errorbar|fill_between|"
    "boxplot|violinplot|semilog[xy]|loglog|ax[hv](line|span)|legend|colorbar|"
    "set_[xy]ticks"
)


def titled_cells(notebook: NotebookNode) -> Iterator[tuple[int, str, NotebookNode]]:
    """Yield number, title and cell of all code that runs."""
    for number, cell in enumerate(filter(has_code, notebook.cells), start=1):
        first_line = cell.source.strip().splitlines()[0]
        yield number, f"code cell {number} ({first_line})", cell


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
    notebook.metadata = {
        "executed": notebook.metadata.get("executed", {}),
        "kernelspec": {"display_name": "Python 3", "language": "python"}
        | {"name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py"}
        | {"mimetype": "text/x-python", "pygments_lexer": "ipython3"},
    }
    return nbformat.from_dict(notebook)


def find_early_faults(notebook: NotebookNode) -> list[str]:
    """Return what would spoil the outputs of a run, as far as it shows in the code."""
    faults = []
    for _, title, cell in titled_cells(notebook):
        if "skip-execution" in tags(cell):
            faults.append(f"{title}: its tag skip-execution leaves it out")
        last = (statements(cell) or [None])[-1]
        if not isinstance(last, ast.Expr) or not isinstance(last.value, ast.Call):
            continue
        name = getattr(last.value.func, "attr", "")
        lines = cell.source.encode().splitlines()[last.end_lineno - 1 :]
        silenced = lines[0][last.end_col_offset :].lstrip().startswith(b";")
        if DRAWING.fullmatch(name) and not silenced:
            faults.append(f"{title}: {name}(…) as its last line is shown; end it in ;")
    return faults


def find_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    """Return why the outputs are not those of one whole, clean run of the code.

    Args:
        notebook: A notebook with its outputs.
        folder: Where it ran; its name must not stand in an output.
    """
    faults = []
    if clean(notebook) != notebook:
        faults.append("it holds stderr or metadata of an editor")
    stored = notebook.metadata.get("executed", {}).get("code_sha256")
    if stored != code_digest(notebook):
        faults.append("the code was edited after its outputs were made")
    for number, title, cell in titled_cells(notebook):
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


def find_other_parameters(notebook: NotebookNode) -> list[str]:
    """Return which settings the outputs were made with, where the cell holds others."""
    used = notebook.metadata.get("executed", {}).get("parameters", {})
    return [
        f"the outputs were made with {name} = {used[name]}, its cell holds {value}"
        for name, value in read_parameters(notebook).items()
        if used.get(name, value) != value
    ]


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in a new kernel, in `folder`; return a clean, executed copy.

    Raises:
        CellExecutionError: A cell failed.
        NotebookError: Python did not start, or ended before the last cell.
    """
    notebook = copy.deepcopy(notebook)
    cells = [(x, cell) for x, cell in enumerate(notebook.cells) if has_code(cell)]
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
                for number, (index, cell) in enumerate(cells, start=1):
                    title = cell.source.strip().splitlines()[0]
                    place = f"code cell {number} ({title})"
                    print(f"[{number}/{len(cells)}] {title} ... ", end="", flush=True)
                    start = time.monotonic()
                    client.execute_cell(cell, index)
                    print(f"{time.monotonic() - start:.1f} s", flush=True)
                nbformat.validate(notebook)
        except (RuntimeError, nbformat.ValidationError) as error:
            print(flush=True)  # ends the line of the cell
            reason = str(error).splitlines()[0]
            if isinstance(error, DeadKernelError):
                reason = f"Python ended {describe_end(process.returncode)}"
            raise NotebookError(f"{place}: {reason}") from error
    settings = read_parameters(notebook)
    settings |= read_parameters(notebook, "injected-parameters")
    digest = code_digest(notebook)
    notebook.metadata["executed"] = {"code_sha256": digest, "parameters": settings}
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
            raise NotebookError(
                f"expected a file to write to, {path} is a folder, a pipe or a device: "
                "name another"
            )
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except OSError as error:
        raise NotebookError(f"cannot write to {path} ({error.strerror})") from error


def execute_file(path: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook file and write the result to `output`."""
    notebook, before = read_notebook(path), path.read_bytes()
    notebook = inject_parameters(notebook, parameters)
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
            replace_file(output, content)
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
        replace_file(path, content)
        return f"The run is in {path}"
    except OSError as error:
        return f"The run could not be kept in a temporary folder ({error.strerror})"


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
    parser.add_argument("notebook", type=Path, nargs="?", help="default: the homework")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path, help="default: the notebook itself")
    parser.add_argument("--check", action="store_true", help="run nothing")
    options = parser.parse_intermixed_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # headings that a terminal cannot show
    try:
        path = options.notebook or find_homework()
        if options.check:
            notebook = read_notebook(path)
            faults = find_faults(notebook, path.resolve().parent)
            if faults := faults + find_other_parameters(notebook):
                raise NotebookError("\n  ".join([f"{path}:", *faults]))
            print(f"{path}: the outputs are clean and belong to the code")
        else:
            parameters = dict(map(parse_parameter, options.parameters))
            execute_file(path, options.output or path, parameters)
        return 0
    except (NotebookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except CellExecutionError as error:
        traceback = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback)  # its colours
        print(f"\n{traceback}\nThe notebook was left as it was.", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted; the notebook was left as it was", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
