"""The file to hand in: its name, its content, and that it runs alone."""

from __future__ import annotations

import make_submission as tool
import nbformat
import pytest
from conftest import make_notebook
from notebooks import NotebookError, inject_parameters

FILE = "Homework2_123_Turing_Alan.ipynb"
REHEARSE = tool.rehearse


@pytest.fixture
def dist(tmp_path, monkeypatch, notebook_path):
    """Where the copy goes; the rehearsal is left out."""
    monkeypatch.setattr(tool.notebooks, "find_homework", lambda: notebook_path)
    monkeypatch.setattr(tool.notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "rehearse", lambda path: None)
    return tmp_path / "dist"


def test_the_name_follows_the_assignment():
    assert tool.submission_name("123", "Turing", "Alan") == FILE
    name = tool.submission_name("S0042", "Berners-Lee", "Timothy-John")
    assert name == "Homework2_S0042_Berners-Lee_Timothy-John.ipynb"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("", "Turing", "Alan"), "NUMBER, got ''"),
        (("StudentNumber", "Turing", "Alan"), "NUMBER, got 'StudentNumber'"),
        (("12 34", "Turing", "Alan"), "NUMBER, got '12 34'"),
        (("123", "LastName", "Alan"), "LAST, got 'LastName'"),
        (("123", "Müller", "Alan"), "hyphens for LAST, got 'Müller'"),
        (("123", "../../etc", "Alan"), "LAST"),
        (("123", "Turing\n", "Alan"), "LAST"),
        (("123", "Turing", "-Alan"), "FIRST"),
    ],
)
def test_a_name_against_the_rule_is_refused(parts, message):
    with pytest.raises(NotebookError) as caught:
        tool.submission_name(*parts)
    assert message in str(caught.value)


def test_the_homework_is_copied_byte_for_byte(dist, notebook_path):
    dist.mkdir()
    (dist / FILE).write_text("old")
    assert tool.main("123", "Turing", "Alan") == 0
    assert (dist / FILE).read_bytes() == notebook_path.read_bytes()
    assert [path.name for path in dist.iterdir()] == [FILE]


def test_a_notebook_without_outputs_of_its_own_is_refused(dist, monkeypatch, capsys):
    notebook = make_notebook(("EPOCHS = 30", "parameters"))
    notebook = inject_parameters(notebook, {"EPOCHS": 2})
    monkeypatch.setattr(tool.notebooks, "read_notebook", lambda path: notebook)
    assert tool.main("123", "Turing", "Alan") == 1
    shown = capsys.readouterr().err
    assert "edited after its outputs were made" in shown
    assert "of a run on other settings: {'EPOCHS': '2'}" in shown
    assert not dist.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("dist", "cannot write to"), (f"dist/{FILE}/x", "is a folder")],
)
def test_a_dist_that_takes_no_file_is_named_before_the_rehearsal(
    dist, monkeypatch, capsys, name, message
):
    monkeypatch.setattr(tool, "rehearse", lambda path: pytest.fail("too late"))
    mine = dist.parent / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    assert tool.main("123", "Turing", "Alan") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert second == "No file was written."
    assert mine.read_text() == "mine"


def test_a_failing_rehearsal_writes_nothing(dist, monkeypatch, capsys):
    def fail(path):
        raise NotebookError("Python ended")

    monkeypatch.setattr(tool, "rehearse", fail)
    assert tool.main("123", "Turing", "Alan") == 1
    assert "Python ended" in capsys.readouterr().err
    assert not dist.exists()


@pytest.mark.parametrize(
    ("fetch", "beside"), [("pass", []), ("1 / 0", ["data"]), ("sleep(60)", ["data"])]
)
def test_the_rehearsal_has_data_beside_it_only_without_a_network(
    dist, monkeypatch, capfd, fetch, beside
):
    """MNIST is there, the network is down, or it never answers."""
    (dist.parent / "data").mkdir()
    monkeypatch.setattr(tool, "FETCH", f"from time import sleep\n{fetch}")
    monkeypatch.setattr(tool, "PATIENCE", 1 if "sleep" in fetch else 60)
    monkeypatch.setattr(tool, "REHEARSAL", {})
    path = dist.parent / "small.ipynb"
    nbformat.write(make_notebook(f"import os\nassert os.listdir() == {beside}"), path)
    REHEARSE(path)
    assert ("MNIST cannot be downloaded here" in capfd.readouterr().out) == bool(beside)
