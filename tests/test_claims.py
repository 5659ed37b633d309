"""What prose, models/ and results/ claim holds: figures, networks, images."""

from __future__ import annotations

import ast
import base64
import re

import numpy as np
import pytest
from conftest import figures_of, texts_of
from nbformat import NotebookNode
from notebooks import COMPANION, ROOT, find_homework, has_code, read_notebook

NETWORKS = {
    "this network": "models/mnist_cnn.keras",
    "short, with mixing": "models/with_mixing.keras",
    "short, without mixing": "models/without_mixing.keras",
}
# Figures of the data, the literature and the assignment, said so in the text
FROM_ELSEWHERE = {
    0.999,  # Adam's usual average
    784,  # pixels of a digit
    73_257,  # crops of SVHN, and about four fifths of those at hand
    870,
    95.10,  # networks of others
    97.53,
    96.60,  # what the original reports
    0.966,
}
NO_CLAIMS = re.compile(
    r"```.*?```|`[^`]*`"  # code
    r"|\$\$.*?\$\$|\$[^$]+\$"  # formulas
    r"|^\#+\ References\n.*?(?=^\#|\Z)"
    r"|^\#+\ [^\n]*"  # headings
    r"|\]\([^)]*\)"  # targets of links
    r"|\[[\d., …]+\]"  # vectors, intervals
    r"|\b(?:19|20)\d\d\b",  # years; a thousand is written with a comma
    re.M | re.S,
)
NUMBER = re.compile(r"(?<![\w.,])(\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)(?!\w)( ?%)?")


def values(text: str) -> set[float]:
    """Return the numbers in a text; percentages as shares too."""
    found = set()
    for number, percent in NUMBER.findall(text):
        value = float(number.replace(",", ""))
        found |= {value, round(value / 100, 9)} if percent else {value}
    return found


def unfounded(prose: str, known: set[float]) -> list[str]:
    """Return the figures in prose that are not known, with the words around each.

    Digits and counts up to ten are no figures.
    """
    prose, found = NO_CLAIMS.sub(" ", prose), []
    for match in NUMBER.finditer(prose):
        value = float(match[1].replace(",", ""))
        figure = match[2] or value > 10 or value % 1
        if figure and not {value, round(value / 100, 9)} & known:
            around = prose[max(match.start() - 50, 0) : match.end() + 30]
            found.append(f"{match[0]}: … {' '.join(around.split())} …")
    return found


def known_to(notebook: NotebookNode) -> set[float]:
    """Return the numbers in a notebook's outputs and in the literals of its code."""
    cells = [cell for cell in notebook.cells if has_code(cell)]
    figures = [x.metadata["image/png"]["alt"] for x in figures_of(notebook)]
    known = values("\n".join([*texts_of(cells), *figures]))
    for cell in cells:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                known.add(float(node.value))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                known |= values(node.value)
    return known


@pytest.mark.parametrize("path", [find_homework(), COMPANION], ids=lambda x: x.stem)
def test_every_figure_in_prose_is_printed_or_set_by_a_cell(path):
    notebook = read_notebook(path)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    known = known_to(notebook) | FROM_ELSEWHERE
    offenders = unfounded("\n\n".join(prose), known)
    assert not offenders, "\n".join(["", *offenders])


def test_every_figure_of_the_readme_is_printed_or_on_the_page_it_names(notebook):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = readme.split("\n## Results\n")[1].split("\n## ")[0]
    outputs = known_to(notebook)
    pages, offenders = set(), []
    for block in re.split(r"\n\n|\n(?=\|)", results):
        if "the same page" not in block:
            pages = set(re.findall(r"\]\(([\w./-]+)\)", block))
        known = [values((ROOT / page).read_text(encoding="utf-8")) for page in pages]
        offenders += unfounded(block, outputs.union(*known))
    assert not offenders, "\n".join(["", *offenders])


# ---------------------------------------------------------------- networks and images


def test_the_committed_network_reads_the_test_images(homework, mnist):
    network = homework.load_network(ROOT / NETWORKS["this network"])
    answers = network.predict(mnist[2], batch_size=500, verbose=0).argmax(axis=1)
    assert np.mean(answers == mnist[3]) >= 0.995


def test_the_stored_images_get_the_stored_answers(homework):
    with np.load(ROOT / "results" / "optimized_images.npz") as file:
        stored = dict(file)
    assert set(stored["network"]) == set(NETWORKS)
    for name, path in NETWORKS.items():
        own = stored["network"] == name
        images = np.float32(stored["images"][own, ..., None]) / 255
        logits = homework.load_network(ROOT / path).predict(images, verbose=0)
        answers = homework.tf.nn.softmax(logits)
        np.testing.assert_allclose(answers, stored["probabilities"][own], atol=1e-3)


def test_results_are_of_the_run_whose_outputs_are_shown(notebook):
    outputs = [x for cell in notebook.cells for x in cell.get("outputs", [])]
    page = "".join(x.get("data", {}).get("text/html", "") for x in outputs)
    animation = (ROOT / "results" / "noise_to_digits.gif").read_bytes()
    shown = f"base64,{base64.b64encode(animation).decode()}" in page
    assert shown, "the animation in the notebook is not the file in results/"
    with np.load(ROOT / "results" / "optimized_images.npz") as file:
        assert f"{len(file['images'])} images" in texts_of(notebook.cells)
