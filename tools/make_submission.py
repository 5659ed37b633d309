"""Write the file to hand in: the homework notebook under a student's own name.

    python tools/make_submission.py NUMBER LAST FIRST

The notebook is copied as it is, after a look at its outputs and a run of all its cells
on small settings in an empty folder.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from nbclient.exceptions import CellExecutionError
from notebooks import (
    ROOT,
    NotebookError,
    find_homework,
    inject_parameters,
    read_notebook,
    replace_file,
)
from run_notebook import check_place, execute, find_faults, find_other_parameters

# Small numbers that every cell can still work with
REHEARSAL = dict(EPOCHS=2, TRAINING_IMAGES=5_000, STEPS=40, SOFT_STEPS=40)
REHEARSAL["RUNS_PER_DIGIT"] = 10


def submission_name(number: str, last: str, first: str) -> str:
    """Return the file's name, as the assignment prescribes it; refuse other letters."""
    name = r"[A-Za-z]+(-[A-Za-z]+)*"
    digits = r"[A-Za-z]*[0-9][A-Za-z0-9]*"
    for part, text, rule, words in (
        ("NUMBER", number, digits, "a student number of digits and letters A to Z"),
        ("LAST", last, name, "a name of letters A to Z and hyphens"),
        ("FIRST", first, name, "a name of letters A to Z and hyphens"),
    ):
        template = text.casefold() in ("studentnumber", "lastname", "firstname")
        if template or not re.fullmatch(rule, text):
            raise NotebookError(f"expected {words} for {part}, got {text!r}")
    return f"Homework2_{number}_{last}_{first}.ipynb"


def rehearse(path: Path) -> None:
    """Run a notebook in an empty folder; offline, with MNIST beside it."""
    notebook = inject_parameters(read_notebook(path), REHEARSAL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            execute(notebook, Path(folder))
        except CellExecutionError as error:
            if "Keras's copy of MNIST" not in str(error):
                raise
            print("\nMNIST cannot be downloaded here. Once more, with data/mnist.npz:")
            shutil.copytree(ROOT / "data", Path(folder) / "data")
            execute(notebook, Path(folder))


def main(number: str = "", last: str = "", first: str = "") -> int:
    """Check, rehearse, copy; return the exit code."""
    try:
        name, path = submission_name(number, last, first), find_homework()
        dist = ROOT / "dist"
        check_place((dist if dist.exists() else ROOT) / name)
        notebook, content = read_notebook(path), path.read_bytes()
        faults = find_faults(notebook, ROOT) + find_other_parameters(notebook)
        if faults:
            raise NotebookError("\n  ".join(["`make run` it first:", *faults]))
        rehearse(path)
        replace_file(dist / name, content)
    except (NotebookError, CellExecutionError, OSError) as error:
        print(f"error: {error}\nNo file was written.", file=sys.stderr)
        return 1
    print(f"wrote dist/{name}: hand in this file")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
