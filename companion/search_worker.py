"""Join the search of the companion notebook's Q3 from another process or machine.

    python companion/search_worker.py
    python companion/search_worker.py --study SHARED_FOLDER/dense_search.journal
    python companion/search_worker.py SEARCH_TRIALS=200

Works on the newest study in the file, or starts the first one, until the study has as
many trials as asked for, whoever ran them. The notebook begins a new study each time
it runs, unless its RESUME_SEARCH is True: start it first, then as many workers as
there are machines.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from notebook import COMPANION, NotebookError, import_functions, parse_parameter


def main() -> None:
    """Run trials and say what they reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, help="the journal (default: notebook's)")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_intermixed_args()
    # before the import changes the working folder
    path = options.study.resolve() if options.study else None
    try:
        parameters = dict(map(parse_parameter, options.parameters))
        os.chdir(COMPANION.parent)
        notebook = import_functions(COMPANION, parameters, "companion")
    except NotebookError as error:
        raise SystemExit(f"error: {error}") from None

    study = notebook.open_study(path or notebook.STUDY_FILE, resume=True)
    training, validation, _ = notebook.prepare_mnist()
    scale = float(training[0].mean()), float(training[0].std())
    part = tuple(array[: notebook.SEARCH_IMAGES] for array in training)
    data = dict(training=part, validation=validation, scale=scale)
    print(f"working on {study.study_name}", flush=True)
    notebook.search(study, notebook.SEARCH_TRIALS, partial(notebook.run_trial, **data))
    print(f"{study.study_name}: best validation accuracy {study.best_value:.2%}")


if __name__ == "__main__":
    main()
