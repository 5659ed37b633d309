"""The program that runs a notebook, on small notebooks made for the purpose."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import execute_notebook as tool
import nbformat
import pytest
from conftest import make_notebook
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_output

PROGRAM = Path(tool.__file__)


@pytest.fixture
def write(tmp_path: Path):
    """Write a notebook made of these sources and return its path."""

    def write_notebook(*sources: str | tuple[str, str]) -> Path:
        path = tmp_path / "small.ipynb"
        nbformat.write(make_notebook(*sources), path)
        return path

    return write_notebook


def run(*arguments: str | Path) -> int:
    """Run the program in this process and return its exit code."""
    return tool.main([str(argument) for argument in arguments])


def outputs_of(path: Path) -> list[list]:
    """Return the outputs of every code cell of a notebook file."""
    notebook = tool.read_notebook(path)
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def executed_notebook(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook of one executed cell with one output."""
    notebook = make_notebook("# Title", "show()")
    notebook.cells[1].execution_count = 1
    notebook.cells[1].outputs = [output]
    return notebook


# ----------------------------------------------------------------------- a good run


def test_run_writes_outputs_counts_and_digest(write, capfd):
    path = write("# Sums", "total = 1 + 2", "# Result", "print(total)\ntotal")
    assert run(path) == 0
    notebook = tool.read_notebook(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2]
    assert code[1].outputs[0].text == "3\n"
    assert code[1].outputs[1].data["text/plain"] == "3"
    assert notebook.metadata["executed"] == {"code_sha256": tool.code_digest(notebook)}
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert not any("execution" in cell.metadata for cell in notebook.cells)
    shown = capfd.readouterr().out
    assert "[1/2] Sums ... " in shown
    assert "[2/2] Result ... " in shown
    assert "2 cells in " in shown
    assert run("--check", path) == 0


def test_running_twice_gives_the_same_file(write):
    path = write("# Set", "print({'a', 'b', 'c'})", "{1: 'x'}")
    assert run(path) == 0
    first = path.read_bytes()
    assert run(path) == 0
    assert path.read_bytes() == first


def test_kernel_has_the_interpreter_and_the_environment_promised(write, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    path = write(
        "import os, sys",
        f"print(os.path.samefile(sys.executable, {sys.executable!r}), "
        f"sys.prefix == {sys.prefix!r})",
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'], os.environ['PYTHONHASHSEED'])",
        "print('inline' in os.environ['MPLBACKEND'])",
    )
    assert run(path) == 0
    texts = [outputs[0].text for outputs in outputs_of(path) if outputs]
    assert texts == ["True True\n", "3 0\n", "True\n"]


def test_a_foreign_kernel_of_the_same_name_is_not_used(tmp_path, write, monkeypatch):
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        '{"argv": ["no-such-python"], "display_name": "old", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert run(write("print('ran')")) == 0


def test_runs_in_the_folder_of_the_notebook(write, tmp_path):
    (tmp_path / "value.txt").write_text("here")
    path = write("print(open('value.txt').read())")
    assert run(path) == 0
    assert outputs_of(path)[0][0].text == "here\n"


def test_runs_in_another_folder_when_told(write, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path = write("open('made.txt', 'w').close()")
    assert run(path, "--workdir", tmp_path / "elsewhere") == 0
    assert (tmp_path / "elsewhere" / "made.txt").exists()


def test_stderr_is_shown_and_not_stored(write, capfd):
    path = write("import sys\nprint('kept')\nprint('warning!', file=sys.stderr)")
    assert run(path) == 0
    assert [output.text for output in outputs_of(path)[0]] == ["kept\n"]
    shown = capfd.readouterr()
    assert (shown.out + shown.err).count("warning!") == 1
    assert "kept" not in shown.out + shown.err


def test_text_and_figures_keep_their_order(write):
    path = write(
        "from IPython.display import display\n"
        "print('a')\nprint('b', flush=True)\ndisplay({'c': 1})\nprint('d')"
    )
    assert run(path) == 0
    outputs = outputs_of(path)[0]
    assert [output.get("text") for output in outputs] == ["a\nb\n", None, "d\n"]


def test_live_line_leaves_its_last_state(write):
    path = write(
        "from IPython.display import display\n"
        "line = display('0 %', display_id=True)\n"
        "for percent in (50, 100):\n    line.update(f'{percent} %')"
    )
    assert run(path) == 0
    assert [o.data["text/plain"] for o in outputs_of(path)[0]] == ["'100 %'"]


def test_result_can_go_elsewhere(write, tmp_path):
    path = write("print(1)")
    before = path.read_bytes()
    assert run(path, "--output", tmp_path / "result.ipynb") == 0
    assert path.read_bytes() == before
    assert outputs_of(tmp_path / "result.ipynb")[0][0].text == "1\n"


# ------------------------------------------------------------- what leaves it alone


def test_failing_cell_leaves_the_file_as_it_was(write, capfd):
    path = write("# Fine", "print(1)", "# Broken", "1 / 0", "print(2)")
    before = path.read_bytes()
    assert run(path) == 1
    assert path.read_bytes() == before
    shown = capfd.readouterr().err
    assert "Broken" in shown
    assert "ZeroDivisionError: division by zero" in shown
    assert "Traceback" in shown


def test_a_tag_does_not_excuse_an_error(write):
    assert run(write(("1 / 0", "raises-exception"))) == 1


def test_kernel_that_dies_is_reported(write, capfd):
    path = write("# Too much", "import os\nos._exit(1)")
    before = path.read_bytes()
    assert run(path) == 1
    assert path.read_bytes() == before
    shown = capfd.readouterr().err
    assert "Too much" in shown
    assert "memory" in shown


def test_kernel_that_does_not_start_says_why(write, tmp_path, monkeypatch, capfd):
    (tmp_path / "ipykernel_launcher.py").write_text("raise ImportError('not there')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run(write("1")) == 1
    shown = capfd.readouterr().err
    assert "failed: starting Python" in shown
    assert "ImportError: not there" in shown


def test_unclean_output_leaves_the_file_as_it_was(write, capfd):
    path = write("# Object", "print(object())")
    before = path.read_bytes()
    assert run(path) == 1
    assert path.read_bytes() == before
    shown = capfd.readouterr().err
    assert "code cell 1 (Object): a memory address" in shown


def test_edits_made_during_the_run_are_kept(write, capfd):
    path = write("open('small.ipynb', 'a').write(' ')")
    before = path.read_bytes()
    assert run(path) == 1
    assert path.read_bytes() == before + b" "
    assert "edited while it ran" in capfd.readouterr().err


def test_interrupt_leaves_the_file_and_no_kernel(write):
    path = write(
        "# Long",
        "import os, pathlib, time\n"
        "pathlib.Path('kernel.pid').write_text(str(os.getpid()))\n"
        "time.sleep(600)",
    )
    before = path.read_bytes()
    process = subprocess.Popen(
        [sys.executable, PROGRAM, path],
        stderr=subprocess.PIPE,
        # a shell that starts the tests in the background makes them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pid_file = path.with_name("kernel.pid")
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in shown
    assert b"Traceback" not in shown
    assert path.read_bytes() == before
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_failure_while_writing_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "small.ipynb"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(tool.os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        tool.write_atomically(make_notebook("1"), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_writing_keeps_mode_and_links(tmp_path):
    path, link = tmp_path / "small.ipynb", tmp_path / "link.ipynb"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    tool.write_atomically(make_notebook("1"), link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert tool.read_notebook(path).cells[0].source == "1"


def test_missing_and_broken_files_are_named(tmp_path, capfd):
    assert run(tmp_path / "none.ipynb") == 1
    assert "no notebook at" in capfd.readouterr().err
    (tmp_path / "broken.ipynb").write_text("{")
    assert run(tmp_path / "broken.ipynb") == 1
    assert "not a readable notebook" in capfd.readouterr().err


# ----------------------------------------------------------------------- parameters


PARAMETERS = ("EPOCHS = 30  # passes\nNAME: str = 'a'  # label", "parameters")


def test_parameters_replace_values(write, tmp_path):
    path = write(PARAMETERS, "print(EPOCHS, NAME)")
    before = path.read_bytes()
    result = tmp_path / "result.ipynb"
    options = ["--parameter", "EPOCHS=-2", "--parameter", "NAME='x=y'"]
    assert run(path, "--output", result, *options) == 0
    assert path.read_bytes() == before
    cells = tool.read_notebook(result).cells
    assert tool.tags(cells[1]) == ["injected-parameters"]
    assert cells[2].outputs[0].text == "-2 x=y\n"


def test_injecting_again_replaces_the_cell():
    once = tool.inject_parameters(make_notebook(PARAMETERS), {"EPOCHS": 1})
    twice = tool.inject_parameters(once, {"EPOCHS": 2})
    assert len(twice.cells) == 2
    assert "EPOCHS = 2" in twice.cells[1].source


def test_injecting_suits_older_notebooks():
    notebook = make_notebook(PARAMETERS)
    notebook.nbformat_minor = 4
    del notebook.cells[0]["id"]
    nbformat.validate(tool.inject_parameters(notebook, {"EPOCHS": 1}))


def test_unknown_parameter_is_refused(write, tmp_path, capfd):
    path = write(PARAMETERS, "print(EPOCHS)")
    result = tmp_path / "result.ipynb"
    assert run(path, "--output", result, "--parameter", "EPOCH=2") == 1
    assert "no parameter named EPOCH; the notebook has EPOCHS, NAME" in (
        capfd.readouterr().err
    )
    assert not result.exists()


@pytest.mark.parametrize("tagged", [[], [PARAMETERS, PARAMETERS]])
def test_one_cell_of_parameters_is_needed(tagged):
    with pytest.raises(tool.NotebookError, match="expected one cell tagged"):
        tool.inject_parameters(make_notebook("1", *tagged), {"EPOCHS": 1})


@pytest.mark.parametrize("text", ["EPOCHS", "=3", "A B=3", "EPOCHS=", "EPOCHS=fast"])
def test_malformed_parameters_are_refused(text):
    with pytest.raises(tool.NotebookError, match=r"NAME=LITERAL|Python literal"):
        tool.parse_parameter(text)


def test_parameters_need_another_output(write, capfd):
    path = write(PARAMETERS)
    with pytest.raises(SystemExit):
        run(path, "--parameter", "EPOCHS=2")
    assert "--parameter needs --output" in capfd.readouterr().err
    assert run(path, "--parameter", "EPOCHS=2", "--output", path) == 1
    assert "must not replace the notebook" in capfd.readouterr().err


# --------------------------------------------------------------------- the checks


def test_check_notices_edited_code(write, capfd):
    path = write("# Sum", "1 + 2")
    assert run(path) == 0
    notebook = tool.read_notebook(path)
    notebook.cells[0].source = "# Another title"
    nbformat.write(notebook, path)
    assert run("--check", path) == 0
    notebook.cells[1].source = "1 + 3"
    nbformat.write(notebook, path)
    assert run("--check", path) == 1
    assert "edited after its outputs" in capfd.readouterr().err


def test_check_notices_a_notebook_that_never_ran(write, capfd):
    assert run("--check", write("1 + 2")) == 1
    assert "holds no digest" in capfd.readouterr().err


def test_digest_depends_on_code_and_its_order_alone():
    digest = tool.code_digest(make_notebook("# Title", "a", "b"))
    assert digest == tool.code_digest(tool.clean(make_notebook("# Other", "a", "b")))
    assert digest != tool.code_digest(make_notebook("# Title", "b", "a"))
    assert digest != tool.code_digest(make_notebook("# Title", "ab"))


UNCLEAN_TEXTS = {
    "memory address": "<object at 0x7f3a5c0b1d90>",
    "home folder": "saved to /home/ann/model.keras",
    "temporary folder": "path=/tmp/x/y",
    "root": "'/root/work'",
    "Mac": "/Users/ann/homework",
    "Windows": r"C:\Users\ann\homework",
    "quoted Windows": r"'C:\\Users\\ann'",
    "file address": "file:///some/where",
    "clock": "finished 14:05:09",
    "clock without seconds": "started at 14:05",
    "American clock": "2:05 PM",
    "date": "run of 2026-11-22",
    "time stamp": "2026-11-22T14:05:09",
    "Unix date": "Sun Nov 22 14:05:09 UTC 2026",
}


@pytest.mark.parametrize("text", UNCLEAN_TEXTS.values(), ids=UNCLEAN_TEXTS.keys())
@pytest.mark.parametrize("kind", ["stream", "text/plain", "text/html"])
def test_unclean_texts_are_found(text, kind):
    if kind == "stream":
        output = new_output("stream", text=text)
    else:
        output = new_output("display_data", data={kind: f"so: {text}"})
    assert tool.find_faults(executed_notebook(output))


@pytest.mark.parametrize(
    "text",
    [
        "trained in 412 s (6:52 min)",
        "0.9962 [0.9948, 0.9973], 60000/60000, 1/2, and/or",
        "models/mnist_cnn.keras, ./tmp/x, ../home/y",
        "https://example.org/home/tmp/page and </root>",
        "ratio 80:20, slice 10:20, color 0xff",
        "digits 0-9, 1998-2003, ±0.05, 2026",
        "<img src='data:image/png;base64,AAAA/tmp/AAAA=='>",
    ],
)
def test_innocent_texts_pass(text):
    output = new_output("display_data", data={"text/html": text})
    assert tool.find_faults(executed_notebook(output)) == []


def test_images_are_not_read_as_text():
    output = new_output("display_data", data={"image/png": " /tmp/ 12:00:00 "})
    assert tool.find_faults(executed_notebook(output)) == []


def test_the_working_directory_is_found(tmp_path):
    output = new_output("stream", text=f"wrote {tmp_path}")
    assert "a folder of this machine" in str(
        tool.find_faults(executed_notebook(output), tmp_path)
    )


def test_errors_and_stderr_are_found():
    error = new_output("error", ename="ValueError", evalue="", traceback=[])
    assert "traceback" in tool.find_faults(executed_notebook(error))[0]
    warning = new_output("stream", name="stderr", text="careful")
    assert "stderr" in tool.find_faults(executed_notebook(warning))[0]


@pytest.mark.parametrize("counts", [(None, None), (2, 1), (1, 3), (1, 1)])
def test_wrong_counts_are_found(counts):
    notebook = make_notebook("a", "b")
    for cell, count in zip(notebook.cells, counts, strict=True):
        cell.execution_count = count
    assert "execution count should be" in tool.find_faults(notebook)[0]


def test_timing_metadata_is_found_and_cleaned():
    notebook = executed_notebook(new_output("stream", text="fine"))
    notebook.cells[1].metadata["execution"] = {"iopub.status.busy": "now"}
    assert tool.find_faults(notebook)
    assert tool.find_faults(tool.clean(notebook)) == []


def test_clean_merges_neighbouring_texts_only():
    notebook = executed_notebook(new_output("stream", text="10 %\r"))
    notebook.cells[1].outputs += [
        new_output("stream", text="20 %\r\nend\n"),
        new_output("stream", name="stderr", text="noise"),
        new_output("stream", text="more\n"),
        new_output("display_data", data={"text/plain": "x"}),
        new_output("stream", text="last\n"),
    ]
    cleaned = tool.clean(notebook)
    texts = [output.get("text") for output in cleaned.cells[1].outputs]
    assert texts == ["20 %\r\nend\nmore\n", None, "last\n"]
    assert len(notebook.cells[1].outputs) == 6  # the original is not touched


# ----------------------------------------------------- tests' own ways to run cells


def test_headings_in_code_blocks_do_not_count():
    cell = nbformat.v4.new_markdown_cell("## Real ##\n```\n# comment\n```\n#tag")
    assert tool.headings_of(cell) == [(2, "Real")]


def test_title_falls_back_on_the_first_line():
    notebook = make_notebook("\nx = 1\ny = 2", "# Later", "z = 3")
    assert tool.title_of(notebook, 0) == "x = 1"
    assert tool.title_of(notebook, 2) == "Later"


def test_a_run_does_not_change_its_argument(tmp_path):
    notebook = make_notebook("# A", "print(1)")
    before = nbformat.writes(notebook)
    executed = tool.execute(notebook, tmp_path)
    assert nbformat.writes(notebook) == before
    assert executed.cells[1].outputs[0].text == "1\n"


def test_execute_raises_the_error_of_the_cell(tmp_path):
    with pytest.raises(CellExecutionError, match="remedy"):
        tool.execute(make_notebook("raise ValueError('remedy')"), tmp_path)
