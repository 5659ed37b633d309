"""The program that runs a notebook, on small notebooks made for the purpose."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
import run_notebook as tool
from conftest import make_notebook
from nbformat.v4 import new_output
from notebooks import read_notebook, replace_file

PROGRAM = Path(tool.__file__)


@pytest.fixture
def write(tmp_path: Path):
    """Write a notebook made of these sources and return its path."""

    def write_notebook(*sources: str | tuple[str, str]) -> Path:
        path = tmp_path / "small book.ipynb"
        nbformat.write(make_notebook(*sources), path)
        return path

    return write_notebook


def run(*arguments: str | Path) -> int:
    """Run the program in this process and return its exit code."""
    return tool.main([str(argument) for argument in arguments])


def outputs_of(path: Path) -> list[list]:
    """Return the outputs of every code cell of a notebook file."""
    cells = read_notebook(path).cells
    return [cell.outputs for cell in cells if cell.cell_type == "code"]


def clean_notebook(*outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook of one cell as the program leaves it, with these outputs."""
    notebook = make_notebook("show()")
    notebook.cells[0].execution_count = 1
    notebook.cells[0].outputs = list(outputs)
    notebook.metadata["executed"] = {"code_sha256": tool.code_digest(notebook)}
    return tool.clean(notebook)


# ----------------------------------------------------------------------- a good run


def test_a_run_stores_outputs_that_pass_the_check(write, capfd, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    path = write(
        "# Sums",
        "import os, sys\nprint('a', flush=True)\nprint('careful', file=sys.stderr)",
        f"print(os.path.samefile(sys.executable, {sys.executable!r}))",
        "print('inline' in os.environ['MPLBACKEND'])",
        "print(open('beside.txt').read())\n{'a', 'b', 'c'}",
        "",
    )
    (path.parent / "beside.txt").write_text("here")
    assert run(path) == 0
    first = path.read_bytes()
    texts = ["".join(o.get("text", "") for o in outs) for outs in outputs_of(path)]
    assert texts == ["a\n", "True\n", "True\n", "here\n", ""]
    shown = capfd.readouterr()
    assert "[4/4] print(open('beside.txt').read()) ... " in shown.out
    assert "wrote" in shown.out
    assert tool.find_faults(read_notebook(path), path.parent) == []
    assert run(path) == 0  # the order of a set included
    assert path.read_bytes() == first


def test_the_kernel_is_this_python_whatever_is_named(write, tmp_path, monkeypatch):
    path = write(
        f"import os, sys\nos.path.samefile(sys.executable, {sys.executable!r})"
    )
    notebook = read_notebook(path)
    notebook.metadata["kernelspec"] = {"name": "other", "display_name": "Other"}
    nbformat.write(notebook, path)
    for name in ("python3", "other"):
        folder = tmp_path / "kernels" / name
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps(dict(argv=["false"])))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(tool.notebooks, "find_homework", lambda: path)
    assert run() == 0  # without a name the homework is meant
    assert outputs_of(path)[0][0].data["text/plain"] == "True"


def test_text_and_figures_keep_their_order(write):
    path = write(
        "import sys\nfrom IPython.display import display\n"
        "print('a')\nprint('w', file=sys.stderr, flush=True)\nprint('b', flush=True)\n"
        "display({'c': 1})\nprint('d')"
    )
    assert run(path) == 0
    assert [o.get("text") for o in outputs_of(path)[0]] == ["a\nb\n", None, "d\n"]


def test_nothing_of_other_programs_is_kept(write):
    path = write("1")
    notebook = read_notebook(path)
    notebook.metadata["colab"] = {"provenance": [], "authorship_tag": "x"}
    notebook.metadata["papermill"] = {"input_path": "/home/ann/x.ipynb"}
    notebook.cells[0].metadata["executionInfo"] = {"user": {"displayName": "Ann"}}
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, path)
    assert len(tool.find_faults(notebook, path.parent)) > 1
    assert run(path) == 0
    text = path.read_text()
    assert not [x for x in ("colab", "papermill", "Ann", "ann") if x in text]
    assert read_notebook(path).cells[0].metadata == {"tags": ["parameters"]}


def test_the_result_can_go_elsewhere_with_other_parameters(write, tmp_path):
    """Of a notebook in an older format, whose cells have no ids."""
    path = write(("EPOCHS = 30  # passes\nNAME = 'a'", "parameters"), "EPOCHS, NAME")
    notebook = read_notebook(path)
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        del cell["id"]
    nbformat.write(notebook, path)
    before = path.read_bytes()
    result = tmp_path / ("x" * 244 + ".ipynb")  # as long as a file's name may be
    assert run(path, "--output", result, "EPOCHS=-2", "NAME='x=y'") == 0
    assert path.read_bytes() == before
    assert outputs_of(result)[2][0].data["text/plain"] == "(-2, 'x=y')"
    assert run(result, "--output", path, "EPOCHS=4") == 0
    assert outputs_of(path)[3][0].data["text/plain"] == "(4, 'x=y')"


def test_a_folder_with_letters_of_elsewhere(tmp_path):
    folder = tmp_path / "Домашняя работа"
    folder.mkdir()
    path = folder / "ё.ipynb"
    nbformat.write(make_notebook("# ё", "print('ё')"), path)
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER")}
    environment |= {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, PROGRAM, path]
    subprocess.run(command, check=True, env=environment)
    assert outputs_of(path)[0][0].text == "ё\n"


# ------------------------------------------------------------- what leaves it alone


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ValueError('expected this')", "ValueError: expected this"),
        (
            "import os\nos._exit(3)",
            "[2/2] import os: Python ended with exit status 3\n",
        ),
        ("import os\nos.kill(os.getpid(), 15)", "by signal 15 (Terminated)\n"),
        ("import os\nos.kill(os.getpid(), 9)", "(Killed): perhaps the memory ran out"),
        ("print(object())", "an address: <object object at 0x"),
        ("print('/home/ann/x')", "a path"),
        ("open('small book.ipynb', 'a').write(' ')", "it was edited while it ran"),
    ],
)
def test_what_goes_wrong_in_a_run_leaves_the_file(write, capfd, source, message):
    path = write("1", source)
    before = path.read_bytes()
    assert run(path) == 1
    assert path.read_bytes().rstrip(b" ") == before.rstrip(b" ")
    assert message in capfd.readouterr().err


def test_what_no_notebook_can_hold_is_not_written(write):
    path = write("from IPython import display as d\nd.display({'a': {1: 2}}, raw=True)")
    before = path.read_bytes()
    command = [sys.executable, PROGRAM, path]  # apart: nbclient leaves a task behind
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: [1/1] from IPython import display as d: {")
    assert path.read_bytes() == before


def test_a_run_is_not_lost_when_its_notebook_has_another_name(write, capfd):
    path = write("import os\nos.rename('small book.ipynb', 'new.ipynb')\n7")
    assert run(path) == 1
    shown = capfd.readouterr().err
    kept = Path(shown.split("The run is in ")[1].strip())
    assert outputs_of(kept)[0][0].data["text/plain"] == "7"
    kept.unlink()


def test_an_interrupt_leaves_the_file_and_no_kernel(write):
    path = write(
        "import os, time\n"
        "with open('pid', 'w') as file:\n    file.write(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    os.mkfifo(path.with_name("pid"))  # reading from it waits for the cell to write
    before = path.read_bytes()
    process = subprocess.Popen(
        [sys.executable, PROGRAM, path],
        stderr=subprocess.PIPE,
        # a shell that starts the tests in the background makes them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pid = int(path.with_name("pid").read_text())
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in shown
    assert b"Traceback" not in shown
    assert path.read_bytes() == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_place_that_cannot_take_the_result_is_found_before_the_run(
    write, tmp_path, capfd
):
    path, pipe = write("open('ran', 'w').close()"), tmp_path / "pipe"
    os.mkfifo(pipe)
    for output, message in (
        (tmp_path, "is a folder"),
        (pipe, "is a folder, a pipe or a device: name another"),
        (tmp_path / "no" / "x.ipynb", "cannot write to"),
        (tmp_path / ("x" * 260), "cannot write to"),
    ):
        assert run(path, "--output", output) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    assert run(pipe) == 1
    assert "it is a folder, a pipe or a device" in capfd.readouterr().err
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert not (tmp_path / "ran").exists()


def test_with_all_disks_full_the_old_file_stays(write, tmp_path, monkeypatch, capfd):
    path, temporary = write("print('x' * 500_000)"), tmp_path / "temporary"
    before = path.read_bytes()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # bytes of a file
    try:
        assert run(path) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr().err.splitlines() == [
        f"error: {path} was left as it was:",
        "  it could not be written (File too large)",
        "The run could not be kept in a temporary folder (File too large)",
    ]
    assert path.read_bytes() == before
    assert [x for x in tmp_path.rglob("*") if x.is_file()] == [path]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("plt.plot([1])", "plt.plot([1]): end its last line, plot(…), in ;"),
        ("x = 1\naxes[0].imshow(\n    x\n)  # ;", "x = 1: end its last line, imshow("),
        (("1", "skip-execution"), "1: its tag skip-execution leaves it out"),
    ],
)
def test_what_would_spoil_a_run_is_found_before_it(write, capfd, source, message):
    path = write("open('ran', 'w').close()", source)
    before = path.read_bytes()
    assert run(path) == 1
    assert f"[2/2] {message}" in capfd.readouterr().err
    assert path.read_bytes() == before
    assert not (path.parent / "ran").exists()


def test_what_shows_nothing_is_no_fault():
    sources = "plt.plot([1]);", "x = plt.plot([1])", "plt.show()", "%pwd\nplt.plot([1])"
    assert tool.find_early_faults(make_notebook(*sources)) == []


def test_writing_keeps_mode_and_links(tmp_path):
    path, link = tmp_path / "small.ipynb", tmp_path / "link.ipynb"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("content", [None, b"null", b"", b"<<<<", b'{"cells": 3}'])
def test_a_file_that_is_no_notebook_is_named_in_one_line(tmp_path, capfd, content):
    path = tmp_path / "none.ipynb"
    if content is not None:
        path.write_bytes(content)
    assert run(path) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: expected a notebook in {path}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("EPOCH=2", "no parameter ['EPOCH']; there are ['EPOCHS']"),
        ("EPOCHS", "expected NAME=VALUE"),
        ("EPOCHS=fast", "expected NAME=VALUE"),
        ("EPOCHS=2", "need --output with another file"),
    ],
)
def test_parameters_that_cannot_be_set_are_refused(write, capfd, argument, message):
    path = write(("EPOCHS = 30", "parameters"), "open('ran', 'w').close()")
    assert run(path, argument) == 1
    assert message in capfd.readouterr().err
    assert not (path.parent / "ran").exists()


# ----------------------------------------------------------------------- the check


def test_the_check_notices_edited_code_and_not_edited_prose(tmp_path):
    notebook = clean_notebook()
    notebook.cells[0].source += "\n# a comment"
    assert tool.find_faults(notebook, tmp_path) == []
    notebook.cells[0].source = "show(1)"
    assert tool.find_faults(notebook, tmp_path) == [
        "the code was edited after its outputs were made"
    ]


def test_outputs_of_parts_of_a_run_are_found(tmp_path):
    good = clean_notebook(new_output("stream", text="ratio 80:20, models/a.keras\n"))
    assert tool.find_faults(good, tmp_path) == []
    for output in (
        new_output("error", ename="ValueError", evalue="", traceback=[]),
        new_output("stream", text=f"wrote {tmp_path}"),
        new_output("display_data", data={"text/html": "<b>/Users/ann</b>"}),
    ):
        assert tool.find_faults(clean_notebook(output), tmp_path)
    picture = new_output("display_data", data={"image/png": "AA /tmp/x AA"})
    assert tool.find_faults(clean_notebook(picture), tmp_path) == []
    good.cells[0].execution_count = 2
    assert "expected the execution count 1" in tool.find_faults(good, tmp_path)[0]
