"""Q1 and Q2 of the second assignment: losses, separation, and products of weights."""

from __future__ import annotations

import numpy as np
import pytest
from notebooks import COMPANION, import_functions

LOSSES = ("cross_entropy", "sigmoid_error", "linear_error")


@pytest.fixture(scope="module")
def companion():
    """The functions, parameters and derived values of the notebook, as a module."""
    return import_functions(COMPANION, dict(DESCENT_STEPS=5), name="companion_q12")


def differences(function, point, step=1e-5):
    """Return the central differences of a function at a point (d,), one a weight."""
    steps = step * np.eye(len(point))
    return np.array(
        [(function(point + s) - function(point - s)) / (2 * step) for s in steps]
    )


# ------------------------------------------------------------------ Q1: one layer


def test_values_and_slopes_of_the_losses_by_hand(companion):
    logit = np.log(3)  # σ(log 3) = 3/4
    assert companion.cross_entropy(logit, 1) == pytest.approx((-np.log(0.75), -0.25))
    assert companion.cross_entropy(logit, 0) == pytest.approx((-np.log(0.25), 0.75))
    assert companion.cross_entropy(-1000.0, 1) == (1000, -1)
    expected = 1 / 16, -2 * 0.25 * 0.75 * 0.25
    assert companion.sigmoid_error(logit, 1) == pytest.approx(expected)
    assert companion.linear_error(3.0, 1) == (4, 4)


def test_the_largest_push_of_squared_error_is_8_of_27(companion):
    logit = np.log(0.5)  # p = 1/3
    assert companion.sigmoid_error(logit, 1)[1] == pytest.approx(-8 / 27)
    slopes = companion.sigmoid_error(np.linspace(-30, 30, 10_001), 1)[1]
    assert slopes.min() >= -8 / 27


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_differences(companion, name):
    loss = getattr(companion, name)
    random = np.random.default_rng(0)
    data = random.normal(size=(7, 3)), random.integers(0, 2, 7)
    for weights in random.normal(size=(5, 3)):
        found = companion.mean_gradient(loss, weights, *data)
        expected = differences(lambda w: companion.mean_loss(loss, w, *data), weights)
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_many_weights_at_once_have_the_losses_of_each(companion):
    random = np.random.default_rng(0)
    data = random.normal(size=(7, 3)), random.integers(0, 2, 7)
    weights = random.normal(size=(4, 2, 3))
    for call in (companion.mean_loss, companion.mean_gradient):
        found = call(companion.cross_entropy, weights, *data)
        assert found.shape[:2] == (4, 2)
        expected = call(companion.cross_entropy, weights[3, 1], *data)
        np.testing.assert_allclose(found[3, 1], expected)


def test_derivatives_of_a_quadratic(companion):
    matrix = np.array([[2.0, 1.0], [1.0, -3.0]])
    point = np.array([0.5, -2.0])
    gradient, hessian = companion.derivatives(
        lambda w: np.einsum("...i,ij,...j->...", w, matrix, w) / 2, point
    )
    np.testing.assert_allclose(gradient, matrix @ point, atol=1e-8)
    np.testing.assert_allclose(hessian, matrix, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "constant"), [(LOSSES[0], 4), (LOSSES[1], 8), (LOSSES[2], 0.5)]
)
def test_the_second_derivative_at_zero_is_the_one_of_the_proof(
    companion, name, constant
):
    random = np.random.default_rng(0)
    inputs, labels = random.normal(size=(9, 3)), random.integers(0, 2, 9)
    loss = getattr(companion, name)
    found = companion.derivatives(
        lambda w: companion.mean_loss(loss, w, inputs, labels), np.zeros(3)
    )[1]
    np.testing.assert_allclose(found, inputs.T @ inputs / (constant * 9), atol=1e-6)


def test_descent_keeps_every_step(companion):
    # on w²/2 a step takes the share DESCENT_RATE away
    path = companion.descend(lambda w: w, [[1.0], [-2.0]])
    shrunk = (1 - companion.DESCENT_RATE) ** np.arange(6)
    np.testing.assert_allclose(path[..., 0], np.outer(shrunk, [1, -2]))


@pytest.mark.parametrize(
    ("inputs", "labels", "expected"),
    [
        ([[-1, 1], [1, 1]], [0, 1], True),  # completely
        ([[-1, 1], [0, 1], [0, 1], [1, 1]], [0, 0, 1, 1], True),  # in part
        ([[-1, 1], [0, 1], [1, 1]], [1, 0, 1], False),
        ([[-1], [1]], [1, 1], False),  # one label, no intercept
        ([[-1, 1], [1, 1]], [1, 1], True),  # the intercept separates one label
        ([[0, 0], [0, 0]], [0, 1], False),  # no answer ever changes
        ([[1e-3], [-1e-3]], [1, 0], True),
    ],
)
def test_separation_complete_and_in_part(companion, inputs, labels, expected):
    assert companion.is_separable(np.array(inputs), np.array(labels)) == expected


# ---------------------------------------------------------------- Q2: more layers


@pytest.mark.parametrize("bias", [False, True])
def test_the_networks_of_the_proof_answer_what_it_says(companion, bias):
    random = np.random.default_rng(0)
    for _ in range(50):
        network = companion.draw_network(random, 3, bias)
        assert 2 <= len(network) <= 5
        inputs = random.normal(size=(6, 3))

        def outputs(first, second, network=network, inputs=inputs):
            scaled = companion.scale_layers(network, first, second)
            return companion.answer(scaled, inputs)

        constant = outputs(2, 0)
        assert np.ptp(constant) < 1e-12
        assert bias or not constant.any()
        for first, second in ((0, 2), (0, 1), (-2, 0)):
            np.testing.assert_allclose(outputs(first, second), constant, atol=1e-12)
        ends = [companion.scale_layers(network, *x) for x in ((2, 0), (0, 2))]
        for both, layer in zip(zip(*ends, strict=True), network, strict=True):
            for part in (0, 1):
                middle = (both[0][part] + both[1][part]) / 2
                np.testing.assert_allclose(middle, layer[part])


def test_a_network_is_the_product_of_its_matrices(companion):
    network = [
        (np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([1.0, 0.0])),
        (np.array([[3.0, -1.0]]), np.array([0.5])),
    ]
    # (3, −1)·(1·1 + 2·1 + 1, 1) + 0.5
    np.testing.assert_allclose(companion.answer(network, np.ones((1, 2))), [11.5])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bias", [False, True])
def test_convexity_always_breaks_unless_the_inputs_are_zero(companion, name, bias):
    random, loss = np.random.default_rng(1), getattr(companion, name)
    for _ in range(50):
        network = companion.draw_network(random, 2, bias)
        data = random.normal(size=(5, 2)), random.integers(0, 2, 5)
        assert companion.chord_excesses(loss, network, *data).max() > 0
    network = companion.draw_network(random, 2, False)
    still = companion.chord_excesses(loss, network, np.zeros((5, 2)), data[1])
    assert not still.any()


def test_the_gap_of_sign_changes_is_covered(companion):
    # x = 1, y = 0, (w₁w₂)²: no network beats the answer 0, and yet it is not convex
    network = [(np.ones((1, 1)), np.zeros(1))] * 2
    data = np.ones((1, 1)), np.zeros(1)
    found = companion.chord_excesses(companion.linear_error, network, *data)
    np.testing.assert_allclose(found, [1, 1, -1])


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_a_product_are_those_of_differences(companion, name):
    loss, labels = getattr(companion, name), np.array([1, 1, 0])
    pairs = np.random.default_rng(0).normal(size=(5, 2))
    found = companion.product_gradient(loss, pairs, labels)
    expected = [
        differences(lambda w: companion.product_loss(loss, w, labels), pair)
        for pair in pairs
    ]
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize(("name", "slope"), [(LOSSES[0], 0.5), (LOSSES[2], 2.0)])
def test_zero_is_a_saddle(companion, name, slope):
    loss, one = getattr(companion, name), np.array([1])
    for number, expected in ((2, [-slope, slope]), (3, [0, 0, 0])):
        gradient, hessian = companion.derivatives(
            lambda w: companion.product_loss(loss, w, one), np.zeros(number)
        )
        np.testing.assert_allclose(gradient, 0, atol=1e-8)
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian), expected, atol=1e-6)
    near = np.array([[0.5, 0.5], [-0.5, 0.5], [0, 0]])
    lower, higher, middle = companion.product_loss(loss, near, one)
    assert lower < middle < higher
