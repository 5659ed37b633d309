"""The same notebook, run twice: the same bits, or numbers that are close."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import run_notebook
from test_execution import (
    DATA,
    MODEL,
    RESULTS,
    TINY,
    before_the_judges,
    before_the_report,
    text_of,
)

pytestmark = pytest.mark.slow


class Run(NamedTuple):
    """What a run leaves: weights, stored results, printed lines without durations."""

    weights: list[np.ndarray]
    results: dict[str, np.ndarray]
    lines: list[str]


def run_twice(homework, folder: Path, **options) -> list[Run]:
    """Run the notebook in two folders, with nothing but the data beside it."""
    runs = []
    for name in ("first", "second"):
        place = folder / name
        place.mkdir()
        notebook = run_notebook(place, copy=[DATA], **options)
        results = {}
        if (place / RESULTS).exists():
            with np.load(place / RESULTS) as file:
                results = {each: file[each] for each in file.files}
        weights = homework.load_model(place / MODEL)[0].get_weights()
        timed = re.compile(r"\d s\b|a second")
        lines = text_of(notebook).splitlines()
        runs.append(Run(weights, results, [x for x in lines if not timed.search(x)]))
    return runs


@pytest.fixture(scope="module")
def same(homework, tmp_path_factory):
    """Two runs of all cells that promise the same bits."""
    parameters = TINY | {"DETERMINISTIC": True}
    return run_twice(homework, tmp_path_factory.mktemp("same"), parameters=parameters)


def test_the_weights_are_the_same_bit_for_bit(same):
    first, second = same
    assert len(first.weights) == 22
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_results_are_the_same_bit_for_bit(same):
    first, second = same
    assert first.results.keys() == second.results.keys()
    assert len(first.results["images"]) > 200
    for name, values in first.results.items():
        np.testing.assert_array_equal(values, second.results[name], err_msg=name)


def test_what_is_printed_is_the_same(same):
    first, second = same
    assert any("DETERMINISTIC=True" in line for line in first.lines)
    assert len(first.lines) > 100
    assert first.lines == second.lines


# What may differ without the promise is the rounding, which grows over the steps. A
# weight is of the order of 0.1, and what is printed has two to four digits.
WEIGHT_TOLERANCE = 0.01
RELATIVE, ABSOLUTE = 0.1, 0.02


def numbers(lines: list[str]) -> np.ndarray:
    """Return all numbers in some lines."""
    found = re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", " ".join(lines))
    return np.array(found, float)


def test_without_the_promise_weights_and_numbers_are_close(homework, tmp_path):
    first, second = run_twice(
        homework,
        tmp_path,
        parameters=TINY | {"DETERMINISTIC": False},
        cells=lambda path: before_the_report(path) or before_the_judges(path),
    )
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=WEIGHT_TOLERANCE)
    options = dict(rtol=RELATIVE, atol=ABSOLUTE)
    np.testing.assert_allclose(numbers(first.lines), numbers(second.lines), **options)
