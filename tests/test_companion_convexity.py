"""Q1 and Q2 of the second assignment: losses, minima, and products of weights."""

from __future__ import annotations

import numpy as np
import pytest
from notebooks import COMPANION, import_functions
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

LOSSES = ("cross_entropy", "sigmoid_error", "linear_error")
THREE = np.ones((3, 1)), np.array([1, 1, 0])


@pytest.fixture(scope="module")
def companion():
    """The functions, parameters and derived values of the notebook, as a module."""
    return import_functions(COMPANION, name="companion_q12")


def draw_data(seed, samples=7, inputs=3):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, inputs)), random.integers(0, 2, samples)


def differences(function, point, step=1e-5):
    """Return the central differences of a function at a point (d,), one a weight."""
    steps = step * np.eye(len(point))
    return np.array(
        [(function(point + s) - function(point - s)) / (2 * step) for s in steps]
    )


# ------------------------------------------------------------------ Q1: one layer


def test_values_and_gradients_of_the_losses_by_hand(companion):
    logit = np.log(3)  # σ(log 3) = 3/4
    assert companion.cross_entropy(logit, 1) == pytest.approx((-np.log(0.75), -0.25))
    assert companion.cross_entropy(logit, 0) == pytest.approx((-np.log(0.25), 0.75))
    expected = 1 / 16, -2 * 0.25 * 0.75 * 0.25
    assert companion.sigmoid_error(logit, 1) == pytest.approx(expected)
    assert companion.linear_error(3.0, 1) == (4, 4)


def test_cross_entropy_is_exact_for_large_logits(companion):
    assert companion.cross_entropy(-1000.0, 1) == (1000, -1)
    assert companion.cross_entropy(40.0, 1)[0] == pytest.approx(np.exp(-40))


def test_the_largest_gradient_of_squared_error_is_8_of_27(companion):
    logit = np.log(0.5)  # p = 1/3
    assert companion.sigmoid_error(logit, 1)[1] == pytest.approx(-8 / 27)
    gradients = companion.sigmoid_error(np.linspace(-30, 30, 10_001), 1)[1]
    assert gradients.min() >= -8 / 27


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_differences(companion, name):
    options = dict(data=draw_data(0), penalty=np.array([0.3, 0, 2]))
    many = np.random.default_rng(1).normal(size=(4, 2, 3))
    values, gradients = companion.mean_loss(getattr(companion, name), many, **options)
    for place in np.ndindex(4, 2):

        def loss_at(weights):
            return companion.mean_loss(getattr(companion, name), weights, **options)[0]

        assert values[place] == pytest.approx(loss_at(many[place]))
        expected = differences(loss_at, many[place])
        np.testing.assert_allclose(gradients[place], expected, atol=1e-8)


def test_descent_finds_the_logistic_regression_of_scikit_learn(companion):
    inputs, labels = data = draw_data(3, samples=40)

    def loss(weights):
        return companion.mean_loss(companion.cross_entropy, weights, data, 0.1)

    path = companion.descend(loss, [[0.0, 0, 0], [5, -5, 5]], 1.0, 500)
    assert path.shape == (501, 2, 3)
    model = LogisticRegression(C=1 / (40 * 0.1), fit_intercept=False, tol=1e-10)
    expected = model.fit(inputs, labels).coef_[0]
    np.testing.assert_allclose(path[-1], [expected, expected], atol=1e-5)
    value = log_loss(labels, model.predict_proba(inputs)) + 0.05 * expected @ expected
    assert loss(path[-1, 0])[0] == pytest.approx(value)


def test_descent_keeps_every_step(companion):
    path = companion.descend(lambda w: (w**2 / 2, w), [[1.0], [-2.0]], 0.25, 5)
    np.testing.assert_allclose(path[..., 0], np.outer(0.75 ** np.arange(6), [1, -2]))


@pytest.mark.parametrize(
    ("inputs", "labels", "penalty", "expected"),
    [
        ([[-1, 1], [1, 1]], [0, 1], (0, 0), False),  # completely separable
        ([[-1, 1], [0, 1], [0, 1], [1, 1]], [0, 0, 1, 1], (0, 0), False),  # in part
        ([[-1, 1], [0, 1], [1, 1]], [1, 0, 1], (0, 0), True),
        ([[-1], [1]], [1, 1], (0,), True),  # one label, no intercept
        ([[-1, 1], [1, 1]], [1, 1], (0, 0), False),  # the intercept separates it
        ([[-1, 1], [1, 1]], [1, 1], (0.1, 0), False),
        ([[-1, 1], [1, 1]], [0, 1], (0.1, 0), True),
        ([[-1, 1], [1, 1]], [1, 1], (0.1, 0.1), True),
        ([[0, 0], [0, 0]], [0, 1], (0, 0), True),  # no probability ever changes
        ([[1e-3], [-1e-3]], [1, 0], (0,), False),
    ],
)
def test_a_minimum_exists_unless_the_labels_separate_at_no_penalty(
    companion, inputs, labels, penalty, expected
):
    found = companion.has_minimum(np.array(inputs), np.array(labels), penalty)
    assert found == expected


# ---------------------------------------------------------------- Q2: more layers


def test_a_network_collapses_to_the_product_of_its_matrices(companion):
    # (3, −1) times ((1, 2), (0, 1)) is (3, 5)
    weights = np.array([1, 2, 0, 1, 3, -1])
    np.testing.assert_allclose(companion.collapse(weights, [2, 2, 1]), [3, 5])
    assert (companion.collapse(weights[:2], [2, 1]) == weights[:2]).all()
    inputs, labels = np.ones((1, 2)), np.array([1])  # (8 − 1)²
    options = dict(widths=[2, 2, 1], data=(inputs, labels))
    many = np.stack([weights, 0 * weights])
    found = companion.network_loss(companion.linear_error, many, **options)
    np.testing.assert_allclose(found, [49, 1])


def test_widths_are_those_of_the_layers_in_turn(companion):
    random = np.random.default_rng(0)
    shapes = (4, 3), (2, 4), (1, 2)
    matrices = [random.normal(size=shape) for shape in shapes]
    weights = np.concatenate([matrix.ravel() for matrix in matrices])
    expected = np.linalg.multi_dot(matrices[::-1])[0]
    np.testing.assert_allclose(companion.collapse(weights, [3, 4, 2, 1]), expected)


@pytest.mark.parametrize(
    ("name", "constant"), [(LOSSES[0], 4), (LOSSES[1], 8), (LOSSES[2], 0.5)]
)
def test_the_second_derivatives_at_zero_are_those_of_the_proof(
    companion, name, constant
):
    inputs, _ = data = draw_data(0, samples=9)
    loss = getattr(companion, name)
    found = companion.second_derivatives(
        lambda w: companion.mean_loss(loss, w, data)[0], np.zeros(3)
    )
    np.testing.assert_allclose(found, inputs.T @ inputs / (constant * 9), atol=1e-6)


def test_second_derivatives_of_a_quadratic(companion):
    matrix = np.array([[2.0, 1.0], [1.0, -3.0]])
    found = companion.second_derivatives(
        lambda w: np.einsum("...i,ij,...j->...", w, matrix, w) / 2, np.array([0.5, -2])
    )
    np.testing.assert_allclose(found, matrix, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_loss_of_a_chain_and_its_gradient(companion, name, number):
    loss = getattr(companion, name)
    points = np.random.default_rng(0).normal(size=(5, number))
    values, gradients = companion.chain_loss(loss, points, THREE)
    widths = [1] * (number + 1)
    expected = companion.network_loss(loss, points, widths, THREE)
    np.testing.assert_allclose(values, expected)
    for point, gradient in zip(points, gradients, strict=True):
        found = differences(lambda w: companion.chain_loss(loss, w, THREE)[0], point)
        np.testing.assert_allclose(gradient, found, atol=1e-8)


@pytest.mark.parametrize(("name", "slope"), [(LOSSES[0], 1 / 6), (LOSSES[2], 4 / 3)])
def test_zero_is_a_saddle(companion, name, slope):
    loss = getattr(companion, name)
    for number, expected in ((2, [-slope, slope]), (3, [0, 0, 0])):
        zero = np.zeros(number)
        assert not companion.chain_loss(loss, zero, THREE)[1].any()
        hessian = companion.second_derivatives(
            lambda w: companion.chain_loss(loss, w, THREE)[0], zero
        )
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian), expected, atol=1e-6)
    near = np.array([[0.5, 0.5], [0, 0], [-0.5, 0.5]])
    lower, middle, higher = companion.chain_loss(loss, near, THREE)[0]
    assert lower < middle < higher


@pytest.mark.parametrize(
    ("name", "label", "ends", "middle"),
    [(LOSSES[2], 0, 0, 1), (LOSSES[0], 1, np.log(2), np.log(1 + np.e))],
)
def test_the_midpoint_of_the_counterexample_lies_above_its_ends(
    companion, name, label, ends, middle
):
    points, data = np.array([[-2, 0], [0, 2], [-1, 1]]), (np.ones((1, 1)), label)
    found = companion.chain_loss(getattr(companion, name), points, data)[0]
    np.testing.assert_allclose(found, [ends, ends, middle])
