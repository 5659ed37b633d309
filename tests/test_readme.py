"""What the README tells people to do can be done."""

from __future__ import annotations

import re

from make_submission import REHEARSAL
from notebooks import COMPANION, ROOT, read_notebook, tags

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_target_of_make_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", README, re.M))
    assert named
    assert {a or b for a, b in named} <= targets


def test_every_file_that_is_named_exists():
    path = r"\b[\w./\\-]+[/\\][\w.-]+\.(?:py|npz|keras|json|ipynb)\b"
    named = re.findall(path, README)
    assert "tools\\run_notebook.py" in named
    for name in named:
        if not name.startswith("dist/"):
            assert (ROOT / name.replace("\\", "/")).exists(), name


def test_every_setting_that_is_named_exists(notebook):
    cells = [*notebook.cells, *read_notebook(COMPANION).cells]
    source = "\n".join(cell.source for cell in cells if "parameters" in tags(cell))
    named = set(re.findall(r"`([A-Z][A-Z_]+)(?:`| = )", README))
    assert named >= {*REHEARSAL, "RETRAIN", "SVHN_ROWS", "SVHN_RUN"}
    assert all(re.search(rf"^{name} = ", source, re.M) for name in named)
