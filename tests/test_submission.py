"""The file to hand in: its name, its content, and that it runs alone."""

from __future__ import annotations

import make_submission as tool
import pytest
from conftest import make_notebook
from notebooks import NotebookError, find_homework

FILE = "Homework2_123_Turing_Alan.ipynb"


@pytest.fixture
def dist(tmp_path, monkeypatch):
    """Where the copy goes; the rehearsal is left out."""
    monkeypatch.setattr(tool, "ROOT", tmp_path)
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
        (("١٢٣", "Turing", "Alan"), "NUMBER"),
        (("123", "LastName", "Alan"), "LAST, got 'LastName'"),
        (
            ("123", "Müller", "Alan"),
            "hyphens for LAST, got 'Müller'",
        ),
        (("123", "van der Berg", "Alan"), "LAST"),
        (("123", "../../etc", "Alan"), "LAST"),
        (("123", "Turing\n", "Alan"), "LAST"),
        (("123", "Turing", "firstname"), "FIRST"),
        (("123", "Turing", "-Alan"), "FIRST"),
    ],
)
def test_a_name_against_the_rule_is_refused(parts, message):
    with pytest.raises(NotebookError) as caught:
        tool.submission_name(*parts)
    assert message in str(caught.value)


def test_the_homework_is_copied_byte_for_byte(dist):
    dist.mkdir()
    (dist / FILE).write_text("old")
    assert tool.main("123", "Turing", "Alan") == 0
    assert (dist / FILE).read_bytes() == find_homework().read_bytes()
    assert [path.name for path in dist.iterdir()] == [FILE]


def test_a_notebook_that_was_not_run_is_refused(dist, monkeypatch, capsys):
    monkeypatch.setattr(tool, "read_notebook", lambda path: make_notebook("print(1)"))
    assert tool.main("123", "Turing", "Alan") == 1
    assert "edited after its outputs were made" in capsys.readouterr().err
    assert not dist.exists()


def test_a_run_on_other_settings_is_refused(dist, monkeypatch, capsys):
    notebook = make_notebook(("EPOCHS = 30", "parameters"))
    notebook.metadata["executed"] = {"parameters": {"EPOCHS": "2"}}
    monkeypatch.setattr(tool, "read_notebook", lambda path: notebook)
    assert tool.main("123", "Turing", "Alan") == 1
    assert "made with EPOCHS = 2, its cell holds 30" in capsys.readouterr().err


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


def test_the_rehearsal_has_data_beside_it_only_without_a_network(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist.npz").write_text("digits")
    message = "could not read Keras's copy of MNIST (no network)"
    lines = f"import os\nif not os.path.exists('data'): raise ValueError({message!r})"
    notebook = make_notebook(
        ("EPOCHS = TRAINING_IMAGES = 1", "parameters"), lines, "EPOCHS"
    )
    runs = []

    def execute(given, folder):
        runs.append(sorted(x.name for x in folder.iterdir()))
        return tool_execute(given, folder)

    tool_execute = tool.execute
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "REHEARSAL", {"EPOCHS": 2})
    monkeypatch.setattr(tool, "read_notebook", lambda path: notebook)
    monkeypatch.setattr(tool, "execute", execute)
    tool.rehearse(tmp_path)
    assert runs == [[], ["data"]]
