"""Write the file to hand in: the homework notebook under a student's own name.

    python tools/make_submission.py NUMBER LAST FIRST

The notebook is copied as it is, after a look at its outputs and a run of all its cells
on small settings in an empty folder: without a network, with data/ beside it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import notebooks
from notebooks import NotebookError
from run_notebook import check_place, execute, find_faults

# Small numbers that every cell can still work with
REHEARSAL = dict(EPOCHS=2, TRAINING_IMAGES=2_000, STEPS=40, SOFT_STEPS=40)
REHEARSAL["RUNS_PER_DIGIT"] = 10
FETCH = "import os; os.environ['KERAS_BACKEND'] = 'tensorflow'"
FETCH += "; import keras; keras.datasets.mnist.load_data()"
PATIENCE = 60  # seconds, for a network that never answers


def submission_name(number: str, last: str, first: str) -> str:
    """Return the file's name, as the assignment prescribes it; refuse other letters."""
    digits = r"[A-Za-z]*[0-9][A-Za-z0-9]*", "a student number of digits and letters"
    name = r"[A-Za-z]+(-[A-Za-z]+)*", "a name of letters A to Z and hyphens"
    parts = ("NUMBER", number, *digits), ("LAST", last, *name), ("FIRST", first, *name)
    for part, text, rule, words in parts:
        template = text.casefold() in ("studentnumber", "lastname", "firstname")
        if template or not re.fullmatch(rule, text):
            raise NotebookError(f"expected {words} for {part}, got {text!r}")
    return f"Homework2_{number}_{last}_{first}.ipynb"


def rehearse(path: Path) -> None:
    """Run a notebook in an empty folder; offline, with MNIST beside it."""
    notebook = notebooks.inject_parameters(notebooks.read_notebook(path), REHEARSAL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:  # from Keras's cache, or from the network
            command = [sys.executable, "-c", FETCH]
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        except subprocess.SubprocessError:
            print("MNIST cannot be downloaded here: data/ goes beside the copy")
            shutil.copytree(notebooks.ROOT / "data", Path(folder) / "data")
        execute(notebook, Path(folder))


def main(number: str = "", last: str = "", first: str = "") -> int:
    """Check, rehearse, copy; return the exit code."""
    try:
        name, path = submission_name(number, last, first), notebooks.find_homework()
        dist = notebooks.ROOT / "dist"
        check_place((dist if dist.exists() else notebooks.ROOT) / name)
        notebook, content = notebooks.read_notebook(path), path.read_bytes()
        faults = find_faults(notebook, notebooks.ROOT)
        if other := notebooks.read_parameters(notebook, "injected-parameters"):
            faults.append(f"its outputs are of a run on other settings: {other}")
        if faults:
            raise NotebookError("\n  ".join(["`make run` it first:", *faults]))
        rehearse(path)
        notebooks.replace_file(dist / name, content)
    except (NotebookError, OSError) as error:
        print(f"error: {error}\nNo file was written.", file=sys.stderr)
        return 1
    print(f"wrote dist/{name}: hand in this file")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
