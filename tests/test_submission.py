"""The file to hand in: its name, its content, and that it runs alone."""

from __future__ import annotations

import os
from pathlib import Path

import execute_notebook
import make_submission as tool
import nbformat
import pytest
from conftest import ROOT, make_notebook
from execute_notebook import NotebookError, execute_file, read_notebook

PARTS = {"number": "123", "last": "Turing", "first": "Alan"}
FILE = "Homework2_123_Turing_Alan.ipynb"


@pytest.fixture
def ready(tmp_path: Path):
    """Write and run a small notebook made of these sources; return its path."""

    def make(*sources: str | tuple[str, str]) -> Path:
        path = tmp_path / "project" / "small.ipynb"
        path.parent.mkdir()
        nbformat.write(make_notebook(*sources), path)
        execute_file(path)
        return path

    return make


def submit(path: Path, *options: str) -> int:
    """Run the program on a notebook, with `dist` beside its folder."""
    parts = [f"--{part}={text}" for part, text in PARTS.items()]
    places = [f"--notebook={path}", f"--output={dist_of(path)}"]
    return tool.main([*parts, *places, *options])


def dist_of(path: Path) -> Path:
    return path.parent.parent / "dist"


# --------------------------------------------------------------------- the name


def test_the_name_follows_the_template_of_the_notebook(notebook_path):
    words = [word for _, word, _, _ in tool.RULES]
    assert notebook_path.name == f"Homework2_{'_'.join(words)}.ipynb"
    assert tool.submission_name("123", "Turing", "Alan") == FILE
    hyphens = tool.submission_name("S0042", "Berners-Lee", "Timothy-John")
    assert hyphens == "Homework2_S0042_Berners-Lee_Timothy-John.ipynb"


@pytest.mark.parametrize(
    ("part", "text", "message"),
    [
        ("number", "", "NUMBER is missing: add NUMBER=…"),
        ("last", "", "LAST is missing"),
        ("first", "", "FIRST is missing"),
        ("number", "StudentNumber", "NUMBER is still the template's StudentNumber"),
        ("last", "LastName", "LAST is still the template's LastName"),
        ("first", "firstname", "FIRST is still the template's FirstName"),
        ("number", "12 34", "digits and letters from A to Z, got '12 34': "),
        ("number", "12 34", "write NUMBER=1234"),
        ("number", "Turing", "got 'Turing': spell it with those alone"),
        ("number", "١٢٣", "NUMBER should be digits"),
        ("number", "12/34", "write NUMBER=1234"),
        ("last", "Müller", "LAST should be letters from A to Z, "),
        ("last", "Müller", "got 'Müller': write LAST=Muller"),
        ("last", "Yıldız", "write LAST=Yildiz"),
        ("last", "van der Berg", "write LAST=van-der-Berg"),
        ("last", "Turing_", "write LAST=Turing"),
        ("last", "O'Brien", "write LAST=OBrien"),
        ("last", "../../etc", "write LAST=etc"),
        ("last", "Turing\n", "write LAST=Turing"),
        ("first", "Alan7", "FIRST should be letters from A to Z"),
        ("first", "李", "got '李': spell it with those alone"),
        ("first", "-Alan", "write FIRST=Alan"),
        ("first", "A\\B", "write FIRST=AB"),
    ],
)
def test_a_name_against_the_rule_is_refused(tmp_path, part, text, message):
    with pytest.raises(NotebookError) as caught:
        tool.submission_name(**(PARTS | {part: text}))
    assert message in str(caught.value)


def test_all_faults_of_a_name_are_told_at_once(capsys, tmp_path):
    place = f"--output={tmp_path / 'dist'}"
    assert tool.main(["--number=1 2", "--last=Gödel", "--first=", place]) == 1
    shown = capsys.readouterr().err
    assert "write NUMBER=12\n" in shown
    assert "write LAST=Godel\n" in shown
    assert "FIRST is missing" in shown
    assert not (tmp_path / "dist").exists()


# ------------------------------------------------------------------ the content


def test_the_homework_is_copied_byte_for_byte(notebook_path, tmp_path, capsys):
    parts = [f"--{part}={text}" for part, text in PARTS.items()]
    assert tool.main([*parts, f"--output={tmp_path}", "--skip-run"]) == 0
    assert (tmp_path / FILE).read_bytes() == notebook_path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert f"{FILE}: hand in this file" in capsys.readouterr().out


def test_an_earlier_copy_is_replaced(ready):
    path = ready("print(1)")
    dist_of(path).mkdir()
    (dist_of(path) / FILE).write_text("old")
    assert submit(path, "--skip-run") == 0
    assert (dist_of(path) / FILE).read_bytes() == path.read_bytes()


def test_code_edited_after_its_run_is_refused(ready, capsys):
    path = ready("print(1)")
    notebook = read_notebook(path)
    notebook.cells[0].source = "print(2)"
    nbformat.write(notebook, path)
    assert submit(path) == 1
    shown = capsys.readouterr().err
    assert "the code was edited after its outputs were made" in shown
    assert "`make run`" in shown
    assert not dist_of(path).exists()


def test_outputs_that_a_full_run_cannot_leave_are_refused(ready, capsys):
    path = ready("print(1)")
    notebook = read_notebook(path)
    notebook.cells[0].execution_count = 7
    nbformat.write(notebook, path)
    assert submit(path) == 1
    assert "execution count should be 1, is 7" in capsys.readouterr().err
    assert not dist_of(path).exists()


def test_a_failed_copy_leaves_the_earlier_one(ready, monkeypatch, capsys):
    path = ready("print(1)")
    dist_of(path).mkdir()
    (dist_of(path) / FILE).write_text("old")

    def full_disk(*names: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(execute_notebook.os, "replace", full_disk)
    assert submit(path, "--skip-run") == 1
    assert "No space left" in capsys.readouterr().err
    assert (dist_of(path) / FILE).read_text() == "old"
    assert os.listdir(dist_of(path)) == [FILE]


# ------------------------------------------------------------------- runs alone

SMALL_NUMBER = ("EPOCHS = 100", "parameters")


def test_the_rehearsal_is_on_small_settings_and_leaves_no_trace(ready, capsys):
    path = ready(
        SMALL_NUMBER,
        "from pathlib import Path\n"
        "record = Path('record.txt')\n"
        "seen = record.read_text() if record.exists() else 'an empty folder'\n"
        "record.write_text(f'{EPOCHS} epochs')\n"
        "assert EPOCHS == 100 or seen == 'an empty folder', seen",
    )
    before = path.read_bytes()
    assert submit(path) == 0
    assert (dist_of(path) / FILE).read_bytes() == path.read_bytes() == before
    # The file of the project's own run: the rehearsal wrote its own elsewhere.
    assert (path.parent / "record.txt").read_text() == "100 epochs"
    assert "3 cells in " in capsys.readouterr().out  # one with the small settings


def test_a_notebook_that_needs_a_file_beside_it_is_refused(ready, capsys):
    path = ready("print(1)")
    (path.parent / "helper.py").write_text("one = 1\n")
    nbformat.write(make_notebook("from helper import one\nprint(one)"), path)
    execute_file(path)
    assert submit(path) == 1
    shown = capsys.readouterr().err
    assert "No module named 'helper'" in shown
    assert "No file was written." in shown
    assert not dist_of(path).exists()


NEEDS_DATA = f"""
from pathlib import Path
if not Path("{tool.DATA_FILE.as_posix()}").exists():
    raise RuntimeError("MNIST could not be downloaded (no network).")
print(sorted(path.name for path in Path(".").iterdir() if path.is_dir()))
"""


def test_without_a_network_the_data_alone_is_put_beside(ready, tmp_path, capsys):
    data = tmp_path / "mnist.npz"
    data.write_bytes((ROOT / tool.DATA_FILE).read_bytes()[:10])
    path = tmp_path / "needs.ipynb"
    nbformat.write(make_notebook(NEEDS_DATA), path)
    tool.rehearse(path, data)
    shown = capsys.readouterr().out
    assert "the download itself stays unproved" in shown
    assert "1 cells in " in shown
    data.unlink()
    with pytest.raises(tool.CellExecutionError, match="could not be downloaded"):
        tool.rehearse(path, data)


def test_an_edit_during_the_rehearsal_is_noticed(ready, monkeypatch, capsys):
    path = ready("print(1)")
    monkeypatch.setattr(tool, "rehearse", lambda path, data: path.write_text("edited"))
    assert submit(path) == 1
    assert "was edited meanwhile: start again" in capsys.readouterr().err
    assert not dist_of(path).exists()
