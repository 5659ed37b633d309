"""Figures can be read without colours, and by those who see little contrast."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

LEAST_CONTRAST = 3  # of graphical objects beside their background, WCAG 2.2, 1.4.11


def luminance(color: object) -> float:
    """Return the relative luminance of a colour, 0 to 1, as WCAG 2.2 defines it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: object, other: object) -> float:
    """Return the contrast of two colours, 1 to 21, as WCAG 2.2 defines it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def named_lines(axis: Axes) -> list[Line2D]:
    """Return the lines that a legend has to tell apart."""
    return [line for line in axis.get_lines() if line.get_label()[0] != "_"]


def told_by_colour_alone(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of lines that share dashes, marker and width."""
    pairs = []
    for axis in figure.axes:
        for one, other in itertools.combinations(named_lines(axis), 2):
            forms = [
                (line.get_linestyle(), line.get_marker(), line.get_linewidth())
                for line in (one, other)
            ]
            if forms[0] == forms[1]:
                pairs.append((one.get_label(), other.get_label()))
    return pairs


def pale_lines(figure: Figure) -> dict[str, float]:
    """Return the lines with too little contrast to what they are drawn on."""
    lines = [(axis, line) for axis in figure.axes for line in named_lines(axis)]
    found = {
        line.get_label(): contrast(line.get_color(), axis.get_facecolor())
        for axis, line in lines
    }
    return {name: value for name, value in found.items() if value < LEAST_CONTRAST}


def test_contrast_is_that_of_the_standard():
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("white", "white") == pytest.approx(1)
    assert contrast("#767676", "white") == pytest.approx(4.54, abs=0.01)


@pytest.fixture
def figures(homework):
    """Every kind of figure with lines, with as many as the notebook draws."""
    history = {name: [0.4, 0.2] for name in ("loss", "val_loss")}
    history |= {name: [0.9, 0.95] for name in ("accuracy", "val_accuracy")}
    curve = np.array([0.4, 0.9]), np.array([1, 9]), np.array([2, 10])
    kinds = 9  # kinds of starts, the most lines in one figure
    fits = {f"kind {i}": np.full((2, 3), 0.5 + i) for i in range(kinds)}
    drawn = {
        "training": homework.plot_training(history, *curve),
        "fits": homework.plot_fits(fits, 1e-3, "Fits"),
    }
    yield drawn
    homework.plt.close("all")


def test_lines_of_the_learning_curves_differ_in_more_than_colour(figures):
    assert told_by_colour_alone(figures["training"]) == []


def test_lines_of_the_fits_differ_in_more_than_colour(figures):
    assert told_by_colour_alone(figures["fits"]) == []


@pytest.mark.parametrize("name", ["training", "fits"])
def test_lines_stand_out_from_their_background(figures, name):
    assert pale_lines(figures[name]) == {}


def test_the_colour_maps_are_safe_for_the_colour_blind(notebook):
    """Gray for digits, viridis and cividis for numbers: lightness alone tells them."""
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    maps = re.findall(r"""(?:cmap=|get_cmap\(|"image", cmap=)["'](\w+)""", code)
    assert set(maps) == {"gray", "viridis", "cividis"}
