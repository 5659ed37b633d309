"""Run a notebook from top to bottom and write clean outputs back in place.

    python tools/execute_notebook.py NOTEBOOK
    python tools/execute_notebook.py NOTEBOOK --output PATH --parameter NAME=LITERAL
    python tools/execute_notebook.py --check NOTEBOOK

The file is replaced only after every cell has run and every output is clean: no
errors, no stderr, no memory addresses, absolute paths or time stamps. Whatever goes
wrong before that, the old file stays as it was. A digest of the code is stored next
to the outputs, so that `--check` can tell whether they still belong together.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Without the version, so that another patch release of Python changes nothing.
LANGUAGE_INFO = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
# Written by editors; they hold versions and states that no reader needs.
DROPPED_NOTEBOOK_METADATA = ("jupytext", "widgets")
DROPPED_CELL_METADATA = ("ExecuteTime", "execution")

# Where a path may begin: not within an address, a relative path or a closing tag.
PATH_BEGINS = r"(?<![\w.:/<-])"

# What an output must not hold: (name of the fault, pattern, what to do instead).
FORBIDDEN = (
    (
        "a memory address",
        re.compile(r"\b0x[0-9a-fA-F]{6,}\b"),
        "print the value, not the object",
    ),
    (
        "an absolute path",
        re.compile(
            PATH_BEGINS + r"/(?:content|home|mnt|opt|private|root|tmp|usr|Users|var)\b"
            r"|\bfile://"
            r"|\b[A-Z]:\\{1,2}(?:Users|Windows|[^\\\s]+\\)"
            r"|\b[A-Z]:/Users\b"
        ),
        "print a path relative to the notebook",
    ),
    (
        "a time of day",
        re.compile(
            r"\b(?:[01]?\d|2[0-3]):[0-5]\d:[0-5]\d\b"
            r"|\bat (?:[01]?\d|2[0-3]):[0-5]\d\b"
            r"|\b(?:0?\d|1[0-2]):[0-5]\d ?[AaPp][Mm]\b"
        ),
        "print a duration in seconds",
    ),
    (
        "a date",
        re.compile(
            r"\b(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"
            r"|\b\d{1,2}[./]\d{1,2}[./](?:19|20)\d\d\b"
            r"|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug"
            r"|Sep|Oct|Nov|Dec) +\d"
        ),
        "leave it out: it changes with every run",
    ),
)
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
EMBEDDED_DATA = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
OVERWRITTEN_BY_CARRIAGE_RETURN = re.compile(r"[^\n]*\r(?=[^\n])")


class NotebookError(Exception):
    """A notebook, or a request about it, that this program must refuse."""


# ------------------------------------------------------------ reading a notebook


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook of format 4.

    Raises:
        NotebookError: There is no such file, or it is not a notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise NotebookError(f"no notebook at {path}: check the name") from None
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise NotebookError(f"{path} is not a readable notebook: {error}") from error


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def has_code(cell: NotebookNode) -> bool:
    """Tell whether a cell runs: a code cell that is not blank."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def headings_of(cell: NotebookNode) -> list[tuple[int, str]]:
    """Return the (level, text) of every heading in a markdown cell."""
    if cell.cell_type != "markdown":
        return []
    found, fenced = [], False
    for line in cell.source.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        match = re.match(r"(#{1,6})\s+(.*?)\s*#*\s*$", line)
        if match and not fenced:
            found.append((len(match[1]), match[2]))
    return found


def title_of(notebook: NotebookNode, index: int) -> str:
    """Return the nearest heading above a cell, else the first line of the cell."""
    for cell in reversed(notebook.cells[:index]):
        found = headings_of(cell)
        if found:
            return found[-1][1]
    lines = notebook.cells[index].source.strip().splitlines()
    return lines[0] if lines else "(blank)"


def without_comments(source: str) -> str:
    """Return code without the lines that are comments alone."""
    lines = source.splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def code_digest(notebook: NotebookNode) -> str:
    """Return the SHA-256 of the sources of all code cells, in order.

    Lines that are comments alone do not count: they change no output.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    sources = [without_comments(cell.source) for cell in cells]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


# ---------------------------------------------------------------- clean outputs


def clean_outputs(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Return outputs without stderr and with neighbouring stdout texts merged."""
    cleaned: list[NotebookNode] = []
    for output in copy.deepcopy(list(outputs)):
        if output.output_type != "stream":
            cleaned.append(output)
        elif output.name == "stderr":
            continue
        elif cleaned and cleaned[-1].output_type == "stream":
            cleaned[-1].text += output.text
        else:
            cleaned.append(output)
    for output in cleaned:
        if output.output_type == "stream":
            # What a terminal would show once a progress line has ended.
            output.text = OVERWRITTEN_BY_CARRIAGE_RETURN.sub("", output.text)
    return cleaned


def clean(notebook: NotebookNode) -> NotebookNode:
    """Return a copy with clean outputs, plain metadata and the digest of its code."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        for key in DROPPED_CELL_METADATA:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = clean_outputs(cell.outputs)
    for key in DROPPED_NOTEBOOK_METADATA:
        notebook.metadata.pop(key, None)
    notebook.metadata["kernelspec"] = dict(KERNELSPEC)
    notebook.metadata["language_info"] = dict(LANGUAGE_INFO)
    notebook.metadata["executed"] = {"code_sha256": code_digest(notebook)}
    return notebook


def output_text(output: NotebookNode) -> str:
    """Return everything in an output that a reader could read, images left out."""
    if output.output_type == "stream":
        return output.text
    readable = (
        value if isinstance(value, str) else json.dumps(value)
        for kind, value in output.get("data", {}).items()
        if not kind.startswith("image/") or kind == "image/svg+xml"
    )
    return EMBEDDED_DATA.sub("", "\n".join(readable))


def output_faults(output: NotebookNode, private: Sequence[str] = ()) -> list[str]:
    """Return what an output holds and should not.

    Args:
        output: One output of a code cell.
        private: Texts that name this machine, such as the working directory.
    """
    if output.output_type == "error":
        return [f"a traceback ({output.ename}); correct the cell and run it again"]
    if output.output_type == "stream" and output.name == "stderr":
        return [f"text on stderr ({output.text.strip()[:60]!r}); run it again"]
    text = ANSI_COLOUR.sub("", output_text(output))
    faults = []
    for name, pattern, remedy in FORBIDDEN:
        match = pattern.search(text)
        if match:
            shown = text[match.start() : match.end() + 30].split("\n")[0]
            faults.append(f"{name} ({shown!r}); {remedy}")
    faults += [
        f"a folder of this machine ({place!r}); print a relative path"
        for place in private
        if re.search(PATH_BEGINS + re.escape(place), text)
    ]
    return faults


def cell_faults(cell: NotebookNode, private: Sequence[str] = ()) -> list[str]:
    """Return what is wrong with the outputs and the metadata of one code cell."""
    faults = []
    for key in DROPPED_CELL_METADATA:
        if key in cell.metadata:
            faults.append(f"metadata {key!r} with time stamps; run it again")
    for output in cell.outputs:
        faults += output_faults(output, private)
        if output.get("execution_count", cell.execution_count) != cell.execution_count:
            faults.append("an output of another run; run it again")
    return faults


def private_places(workdir: Path | None) -> list[str]:
    """Return the folders whose names no output should hold."""
    places = [workdir.resolve(), Path.home()] if workdir else [Path.home()]
    # A short one ("/", "/a") would be found in innocent text as well.
    return sorted({str(place) for place in places if len(str(place)) > 3})


def find_faults(notebook: NotebookNode, workdir: Path | None = None) -> list[str]:
    """Return one line for every output, count or mark that a clean run cannot leave.

    Args:
        notebook: An executed notebook.
        workdir: The folder it ran in; its name must not show in the outputs.
    """
    private = private_places(workdir)
    faults = []
    number = 0
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        number += has_code(cell)
        place = f"code cell {number} ({title_of(notebook, index)})"
        expected = number if has_code(cell) else None
        if cell.execution_count != expected:
            faults.append(
                f"{place}: execution count should be {expected}, "
                f"is {cell.execution_count}; run the whole notebook"
            )
        faults += [f"{place}: {fault}" for fault in cell_faults(cell, private)]
    return faults


def digest_fault(notebook: NotebookNode) -> str | None:
    """Return what is wrong when code and outputs do not belong together, else None."""
    stored = notebook.metadata.get("executed", {}).get("code_sha256")
    if stored is None:
        return "the notebook holds no digest of its code: run it with this program"
    if stored != code_digest(notebook):
        return "the code was edited after its outputs were made: run the notebook again"
    return None


# ------------------------------------------------------------------- parameters


def parse_parameter(text: str) -> tuple[str, Any]:
    """Split `NAME=LITERAL` into a name and a Python value."""
    name, separator, literal = text.partition("=")
    name = name.strip()
    if not separator or not name.isidentifier():
        raise NotebookError(f"expected NAME=LITERAL for a parameter, got {text!r}")
    try:
        return name, ast.literal_eval(literal.strip())
    except (ValueError, SyntaxError):
        raise NotebookError(
            f"the value of {name} should be a Python literal such as 3, 0.5, True or "
            f"'text' (with its quotes), got {literal!r}"
        ) from None


def assigned_names(source: str) -> list[str]:
    """Return the names that a piece of code assigns at its top level, in order."""
    names = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        for target in targets:
            names += [
                node.id for node in ast.walk(target) if isinstance(node, ast.Name)
            ]
    return names


def inject_parameters(
    notebook: NotebookNode, parameters: dict[str, Any]
) -> NotebookNode:
    """Return a copy with other values for some parameters.

    The values go into a cell of their own, tagged `injected-parameters`, right after
    the cell tagged `parameters`; an injected cell from an earlier run is replaced.

    Raises:
        NotebookError: There is not exactly one cell tagged `parameters`, or it does
            not assign one of the names.
    """
    notebook = copy.deepcopy(notebook)
    notebook.cells = [
        cell for cell in notebook.cells if "injected-parameters" not in tags(cell)
    ]
    places = [i for i, cell in enumerate(notebook.cells) if "parameters" in tags(cell)]
    if len(places) != 1:
        raise NotebookError(
            f"expected one cell tagged 'parameters', found {len(places)}: tag the cell "
            "that assigns the parameters"
        )
    known = assigned_names(notebook.cells[places[0]].source)
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise NotebookError(
            f"no parameter named {', '.join(unknown)}; the notebook has "
            f"{', '.join(known)}"
        )
    lines = ["# Injected for this run; these values replace the ones above."]
    lines += [f"{name} = {value!r}" for name, value in parameters.items()]
    cell = nbformat.v4.new_code_cell("\n".join(lines), id="injected-parameters")
    cell.metadata["tags"] = ["injected-parameters"]
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        del cell["id"]  # unknown to older formats
    notebook.cells.insert(places[0] + 1, cell)
    return notebook


# ---------------------------------------------------------------------- running


class Progress:
    """One line on the terminal for every code cell."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        """Prepare for `total` code cells, on standard output unless told otherwise."""
        self.total = total
        self.stream = stream or sys.stdout
        self.number = 0
        self.label = "starting Python"
        self._live = self.stream.isatty()
        self._lock = threading.Lock()
        self._line_open = False
        self._begin = self._cell_begin = time.monotonic()
        self._running = threading.Event()
        if self._live:
            threading.Thread(target=self._tick, daemon=True).start()

    def start(self, title: str) -> None:
        """Say which cell begins."""
        self.number += 1
        width = len(str(self.total))
        title = textwrap.shorten(title, 58, placeholder="...")
        with self._lock:
            self.label = f"[{self.number:{width}}/{self.total}] {title}"
            self._cell_begin = time.monotonic()
            self._write(self.label + " ... ")
            self._line_open = True
        self._running.set()

    def finish(self) -> None:
        """Say how long the cell took."""
        self._running.clear()
        with self._lock:
            self._write_seconds(f"{time.monotonic() - self._cell_begin:.1f} s\n")
            self._line_open = False

    def note(self, text: str) -> None:
        """Show a text on stderr, on lines of its own."""
        with self._lock:
            self.end_line()
            sys.stderr.write(text if text.endswith("\n") else text + "\n")
            sys.stderr.flush()

    def end_line(self) -> None:
        """End a line that a cell has left open."""
        if self._line_open:
            self._write("\n")
            self._line_open = False

    def stop(self) -> None:
        """Stop counting; the cell did not finish."""
        self._running.clear()
        with self._lock:
            self.end_line()

    @property
    def total_seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def _tick(self) -> None:
        while True:
            self._running.wait()
            time.sleep(1)
            with self._lock:
                if self._running.is_set():
                    elapsed = time.monotonic() - self._cell_begin
                    self._write_seconds(f"{elapsed:.0f} s")
                    self._line_open = True

    def _write_seconds(self, seconds: str) -> None:
        if self._live:
            self._write(f"\r{self.label} ... {seconds}")
        else:
            self._write(seconds if self._line_open else f"{self.label} ... {seconds}")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class SameInterpreterKernelManager(AsyncKernelManager):
    """Starts the kernel with the interpreter that runs this program.

    A kernel looked up by its name may belong to another environment: a `python3`
    installed for the whole user comes before the one that is active.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel's command line, whatever is installed under its name."""
        return KernelSpec(
            argv=[
                sys.executable,
                "-m",
                "ipykernel_launcher",
                "-f",
                "{connection_file}",
            ],
            display_name=KERNELSPEC["display_name"],
            language=KERNELSPEC["language"],
        )


class Client(NotebookClient):
    """Runs cells; shows what they write to stderr instead of storing it."""

    progress: Progress | None = None

    def output(
        self,
        outs: list[NotebookNode],
        msg: dict[str, Any],
        display_id: str | None,
        cell_index: int,
    ) -> NotebookNode | None:
        """Store one output of a running cell."""
        content = msg["content"]
        if msg["msg_type"] == "stream" and content["name"] == "stderr":
            if self.progress:
                self.progress.note(content["text"])
            return None
        return super().output(outs, msg, display_id, cell_index)


def kernel_environment(ipython_folder: str) -> dict[str, str]:
    """Return the environment variables of the kernel."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # An empty profile: start-up files of a user would run before the notebook.
        "IPYTHONDIR": ipython_folder,
    }
    # The kernel's own choice is the one that puts figures into the notebook.
    environment.pop("MPLBACKEND", None)
    return environment


def last_words(log: Path) -> str:
    """Return the end of what a dead kernel wrote outside of any cell."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    # The kernel's own notices are about its connection, not about its end.
    lines = [line for line in lines if not line.startswith("[IPKernelApp]")]
    return "\n".join(lines[-10:])


@contextlib.contextmanager
def running_kernel(client: NotebookClient, workdir: Path) -> Iterator[None]:
    """Start a kernel for a client, and end it whatever happens.

    Raises:
        DeadKernelError: The kernel did not start, or ended too early.
    """
    # The kernel may still write its history while it is being killed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = kernel_environment(folder)
        log = Path(folder) / "kernel.log"
        try:
            # What cells print comes as messages; on the terminal it would show twice.
            with (
                log.open("wb") as file,
                client.setup_kernel(
                    cwd=str(workdir), env=environment, stdout=file, stderr=file
                ),
            ):
                try:
                    yield
                except BaseException:
                    # Nothing is left to save: do not wait for a training to end.
                    client.shutdown_kernel = "immediate"
                    raise
        except RuntimeError as error:
            raise DeadKernelError(f"{error}\n{last_words(log)}".rstrip()) from error


def execute(
    notebook: NotebookNode, workdir: Path, progress: Progress | None = None
) -> NotebookNode:
    """Run all cells in a new kernel and return a clean, executed copy.

    Args:
        notebook: The notebook; it is not changed.
        workdir: The folder the code runs in.
        progress: Told about every cell, and about faults as soon as they show.

    Raises:
        CellExecutionError: A cell failed.
        DeadKernelError: The Python process of the notebook did not start, or ended.
    """
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = Client(
        notebook,
        kernel_manager_class=SameInterpreterKernelManager,
        kernel_name=KERNELSPEC["name"],
        timeout=None,
        record_timing=False,
        # Its merging moves text past the figures between; `clean` keeps the order.
        coalesce_streams=False,
        force_raise_errors=True,
        # Late outputs are waited for: the default drops them after four seconds.
        iopub_timeout=120,
        raise_on_iopub_timeout=True,
    )
    client.progress = progress
    private = private_places(workdir)
    with running_kernel(client, workdir):
        for index, cell in enumerate(notebook.cells):
            if not has_code(cell):
                continue
            if progress:
                progress.start(title_of(notebook, index))
            client.execute_cell(cell, index)
            if progress:
                progress.finish()
                for output in clean_outputs(cell.outputs):
                    for fault in output_faults(output, private):
                        progress.note(f"    not clean: {fault}")
    return clean(notebook)


# ---------------------------------------------------------------------- writing


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then put it in place in one step."""
    path = path.resolve()  # a link stays a link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook; the file is the old one or the new one at any moment."""
    text = nbformat.writes(notebook)
    replace_file(path, (text if text.endswith("\n") else text + "\n").encode())


def require_writable(path: Path) -> None:
    """Raise NotebookError when a file cannot be put in its folder."""
    try:
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise NotebookError(
            f"cannot write to the folder of {path} ({error.strerror}): choose another "
            "place with --output"
        ) from error


def execute_file(
    path: Path,
    output: Path | None = None,
    parameters: dict[str, Any] | None = None,
    workdir: Path | None = None,
) -> NotebookNode:
    """Run a notebook file, show the progress, and write the result.

    Args:
        path: The notebook.
        output: Where the result goes; the notebook itself unless given.
        parameters: Other values for names assigned in the cell tagged `parameters`.
        workdir: The folder the code runs in; the notebook's own unless given.

    Raises:
        NotebookError: The result is not clean or cannot be written; no file changed.
    """
    output = output or path
    workdir = (workdir or path.resolve().parent).resolve()
    if not workdir.is_dir():
        raise NotebookError(f"no folder {workdir} to run in: create it first")
    if parameters and output.resolve() == path.resolve():
        raise NotebookError(
            "a run with other parameters must not replace the notebook: name another "
            "file with --output"
        )
    notebook = read_notebook(path)
    before = path.read_bytes()
    if parameters:
        notebook = inject_parameters(notebook, parameters)
    require_writable(output)

    progress = Progress(sum(map(has_code, notebook.cells)))
    try:
        executed = execute(notebook, workdir, progress)
    except BaseException as error:
        progress.stop()
        error.add_note(progress.label)
        raise
    faults = find_faults(executed, workdir)
    if faults:
        raise NotebookError(
            "the outputs are not clean; the file was left as it was:\n  "
            + "\n  ".join(faults)
        )
    if output.resolve() == path.resolve() and path.read_bytes() != before:
        raise NotebookError(
            f"{path} was edited while it ran; the edits were kept, the outputs were "
            "not: run it again"
        )
    write_atomically(executed, output)
    print(f"{progress.total} cells in {progress.total_seconds:.0f} s: wrote {output}")
    return executed


def check_file(path: Path) -> list[str]:
    """Return what is wrong with the stored outputs of a notebook file."""
    notebook = read_notebook(path)
    digest = digest_fault(notebook)
    faults = find_faults(notebook, path.resolve().parent)
    return [digest, *faults] if digest else faults


# ----------------------------------------------------------------- command line


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Run a notebook and write clean outputs back in place."
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument(
        "--check",
        action="store_true",
        help="run nothing; fail when stored outputs are unclean or of other code",
    )
    parser.add_argument(
        "--output", type=Path, help="write here instead of into the notebook itself"
    )
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=LITERAL",
        help="another value for a parameter; needs --output",
    )
    parser.add_argument(
        "--workdir", type=Path, help="folder to run in (default: the notebook's own)"
    )
    return parser


def describe_failure(error: CellExecutionError, colours: bool) -> str:
    """Return where and how a cell failed."""
    where = " ".join(getattr(error, "__notes__", []))
    text = f"{error.traceback}\nfailed: {where}\n{error.ename}: {error.evalue}"
    return text if colours else ANSI_COLOUR.sub("", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.check and (options.output or options.parameter or options.workdir):
        parser.error("--check runs nothing and takes no other option")
    if options.parameter and not options.output:
        parser.error("--parameter needs --output: a rehearsal keeps the real outputs")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # headings that a terminal cannot show
    try:
        if options.check:
            faults = check_file(options.notebook)
            if faults:
                raise NotebookError(f"{options.notebook}:\n  " + "\n  ".join(faults))
            print(f"{options.notebook}: outputs are clean and belong to the code")
            return 0
        parameters = dict(map(parse_parameter, options.parameter))
        execute_file(options.notebook, options.output, parameters, options.workdir)
        return 0
    except NotebookError as error:
        print(f"error: {error}", file=sys.stderr)
    except CellExecutionError as error:
        print(describe_failure(error, sys.stderr.isatty()), file=sys.stderr)
        print("The notebook file was left as it was.", file=sys.stderr)
    except DeadKernelError as error:
        where = " ".join(getattr(error, "__notes__", []))
        print(
            f"failed: {where}\n{error}\nThe notebook's Python process ended by itself; "
            "without a message above, most often memory ran out. The file was left as "
            "it was.",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        print("interrupted; the notebook file was left as it was", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
