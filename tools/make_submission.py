"""Write the file to hand in: the homework notebook under a student's own name.

    python tools/make_submission.py --number 123 --last Turing --first Alan

Before `dist/Homework2_123_Turing_Alan.ipynb` is written, the name is checked against
the assignment's rule, the stored outputs against the code beside them, and the
notebook is run on small settings in an empty folder. The copy is the notebook as it
is, byte for byte.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from execute_notebook import (
    NotebookError,
    assigned_names,
    check_file,
    describe_failure,
    execute_file,
    read_notebook,
    replace_file,
    tags,
)
from nbclient.exceptions import CellExecutionError, DeadKernelError
from notebook_functions import ROOT, find_notebook

DATA_FILE = Path("data/mnist.npz")

# Small numbers that every cell can still work with.
REHEARSAL = dict(
    EPOCHS=2, TRAINING_IMAGES=5_000, STEPS=40, SOFT_STEPS=40, RUNS_PER_DIGIT=10
)

NAME = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")
# Part of the name, the assignment's word for it, what it may be, and that in words.
RULES = (
    (
        "NUMBER",
        "StudentNumber",
        re.compile(r"(?=.*[0-9])[A-Za-z0-9]+"),
        "digits, or digits and letters from A to Z",
    ),
    ("LAST", "LastName", NAME, "letters from A to Z, with hyphens between names"),
    ("FIRST", "FirstName", NAME, "letters from A to Z, with hyphens between names"),
)
# Letters that Unicode does not take apart into a plain one and a mark.
PLAIN_LETTERS = str.maketrans(
    {"ı": "i", "ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o"}
    | {"Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "þ": "th"}
)


# --------------------------------------------------------------------- the name


def suggest(text: str, rule: re.Pattern[str]) -> str | None:
    """Return a spelling that a rule allows, or None if none is near.

    Marks fall off letters, and a hyphen stands for blanks; what is left over and not
    allowed goes.
    """
    plain = unicodedata.normalize("NFKD", text.translate(PLAIN_LETTERS))
    joined = re.sub(r"[\s_-]+", "-" if rule is NAME else "", plain)
    spelling = re.sub(r"[^A-Za-z0-9-]", "", joined).strip("-")
    return spelling if rule.fullmatch(spelling) else None


def name_fault(part: str, word: str, rule: re.Pattern[str], text: str) -> str | None:
    """Return what is wrong with one part of the name and what to do, else None.

    `rule` is what the part may be; `word` is the template's, which it may not be.
    """
    if not text:
        return f"{part} is missing: add {part}=… with your own"
    if text.casefold() == word.casefold():
        return f"{part} is still the template's {word}: put your own there"
    if rule.fullmatch(text):
        return None
    spelling = suggest(text, rule)
    allowed = next(words for name, _, _, words in RULES if name == part)
    remedy = f"write {part}={spelling}" if spelling else "spell it with those alone"
    return f"{part} should be {allowed}, got {text!r}: {remedy}"


def submission_name(number: str, last: str, first: str) -> str:
    """Return the file's name, `Homework2_StudentNumber_LastName_FirstName.ipynb`.

    The assignment prescribes this convention. An underscore separates the parts, so
    it stands in none of them, and plain letters survive every file system and upload.

    Raises:
        NotebookError: A part is missing, still the template's, or has other
            characters; names all such parts.
    """
    parts = zip(RULES, (number, last, first), strict=True)
    faults = [name_fault(name, word, rule, x) for (name, word, rule, _), x in parts]
    faults = [fault for fault in faults if fault]
    if faults:
        raise NotebookError("\n  ".join(["the file's name:", *faults]))
    return f"Homework2_{number}_{last}_{first}.ipynb"


# -------------------------------------------------------------------- rehearsal


def lacks_data(error: CellExecutionError) -> bool:
    """Tell whether a run ended because MNIST could not be downloaded."""
    return error.ename == "RuntimeError" and "could not be downloaded" in error.evalue


def small_settings(path: Path) -> dict[str, int]:
    """Return those of the settings for a rehearsal that a notebook has."""
    cells = [c for c in read_notebook(path).cells if "parameters" in tags(c)]
    known = {name for cell in cells for name in assigned_names(cell.source)}
    return {name: value for name, value in REHEARSAL.items() if name in known}


def run_alone(path: Path, beside: Path | None = None) -> None:
    """Run a copy of a notebook on small settings in a new, empty folder.

    Args:
        path: The notebook; it is not changed.
        beside: A data file to put at its place in that folder, or None.

    Raises:
        NotebookError: The outputs are not clean.
        CellExecutionError: A cell failed.
        DeadKernelError: The Python process of the notebook ended.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy = Path(shutil.copy(path, folder))
        if beside:
            (copy.parent / DATA_FILE).parent.mkdir()
            shutil.copyfile(beside, copy.parent / DATA_FILE)
        rehearsed = copy.with_name("rehearsal.ipynb")
        execute_file(copy, rehearsed, small_settings(copy))


def rehearse(path: Path, data: Path) -> None:
    """Run a notebook alone; where MNIST cannot be downloaded, with it alone.

    Raises what `run_alone` raises.
    """
    print("rehearsal on small settings, in an empty folder:", flush=True)
    try:
        run_alone(path)
    except CellExecutionError as error:
        if not (lacks_data(error) and data.exists()):
            raise
        print(
            f"\nMNIST could not be downloaded here. Once more, with {data.name} beside "
            "the notebook as its only company (so the download itself stays unproved):",
            flush=True,
        )
        run_alone(path, beside=data)


# ------------------------------------------------------------------- submission


def make_submission(
    path: Path, name: str, folder: Path, data: Path, skip_run: bool = False
) -> Path:
    """Check a notebook and write its copy to hand in.

    Args:
        path: The notebook.
        name: The copy's name, from `submission_name`.
        folder: Where the copy goes; made if it is missing.
        data: A copy of MNIST for a rehearsal without a network.
        skip_run: Leave out the rehearsal.

    Raises:
        NotebookError: Outputs do not belong to the code or are not clean, or the
            notebook was edited meanwhile. Nothing is written then.
        CellExecutionError, DeadKernelError: The rehearsal failed. The same.
    """
    content = path.read_bytes() if path.exists() else b""
    faults = check_file(path)
    if faults:
        raise NotebookError(
            f"{path.name} is not ready; `make run` fills it anew:\n  "
            + "\n  ".join(faults)
        )
    if not skip_run:
        rehearse(path, data)
    if path.read_bytes() != content:
        raise NotebookError(f"{path.name} was edited meanwhile: start again")
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / name, content)
    return folder / name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in ("number", "last", "first"):
        parser.add_argument(f"--{part}", default="", help="part of the file's name")
    parser.add_argument("--notebook", type=Path, help="default: the homework notebook")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder")
    parser.add_argument(
        "--skip-run", action="store_true", help="do not run it in an empty folder"
    )
    options = parser.parse_args(arguments)
    try:
        name = submission_name(options.number, options.last, options.first)
        path = options.notebook or find_notebook()
        data = ROOT / DATA_FILE
        written = make_submission(path, name, options.output, data, options.skip_run)
        print(f"wrote {written}: hand in this file")
        return 0
    except (NotebookError, DeadKernelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except CellExecutionError as error:
        print(describe_failure(error, sys.stderr.isatty()), file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print("No file was written.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
