"""The helpers of both parts: shares, targets, digits, figures and tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

# ------------------------------------------------------------- shares and splits


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (9960, 10_000, 0.9946, 0.9971),
        (9970, 10_000, 0.9957, 0.9979),
    ],
)
def test_wilson_interval_has_the_published_ends(homework, successes, trials, low, high):
    found = homework.wilson_interval(successes, trials)
    assert found == pytest.approx((low, high), abs=5.1e-5)


@pytest.mark.parametrize("trials", [1, 7, 10_000])
def test_wilson_interval_of_none_and_of_all(homework, trials):
    # with z² = 3.8415, the square of the normal quantile of 97.5 %
    end = 3.841459 / (trials + 3.841459)
    assert homework.wilson_interval(0, trials) == pytest.approx((0, end), abs=1e-6)
    found = homework.wilson_interval(trials, trials)
    assert found == pytest.approx((1 - end, 1), abs=1e-6)
    assert found[1] <= 1


@pytest.mark.parametrize(("successes", "trials"), [(-1, 10), (11, 10), (0, 0)])
def test_wilson_interval_refuses_impossible_counts(homework, successes, trials):
    message = rf"no more successes than trials, got {successes} of {trials}$"
    with pytest.raises(ValueError, match=message):
        homework.wilson_interval(successes, trials)


def test_describe_share_gives_the_share_with_its_interval(homework):
    hits = np.array([True, True, True, False])
    assert homework.describe_share(hits) == "75.0% (30.1% to 95.4%)"
    assert homework.describe_share(hits.reshape(2, 2), 0) == "75% (30% to 95%)"


@pytest.mark.parametrize("held_out", [1, 123, 1000, 5000])
def test_split_is_exact_complete_and_stratified(homework, mnist, held_out):
    labels = mnist["y_test"]
    kept, second = homework.split_stratified(labels, held_out, seed=3)
    assert len(second) == held_out
    assert sorted([*kept, *second]) == list(range(len(labels)))
    exact = np.bincount(labels) * held_out / len(labels)
    assert np.abs(np.bincount(labels[second], minlength=10) - exact).max() < 1


def test_any_piece_of_what_is_kept_is_a_random_sample(homework, mnist):
    labels = mnist["y_test"]
    kept, held_out = homework.split_stratified(labels, 1000, seed=3)
    for piece in np.split(kept, 90):
        counts = np.bincount(labels[piece], minlength=10)
        expected = np.bincount(labels) / 100
        # chi-squared of nine degrees of freedom: 45 is passed once in 10⁶ times
        assert np.sum((counts - expected) ** 2 / expected) < 45
        assert np.mean(np.diff(piece) > 0) < 0.75
    np.testing.assert_array_equal(held_out, np.sort(held_out))


def test_split_follows_from_the_seed(homework, mnist):
    labels = mnist["y_test"]
    first, again, other = (
        homework.split_stratified(labels, 500, seed)[1] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


@pytest.mark.parametrize("held_out", [-1, 0, 10, 11])
def test_split_refuses_to_leave_a_part_empty(homework, held_out):
    message = f"expected held_out of 1 to 9, got {held_out}"
    with pytest.raises(ValueError, match=message):
        homework.split_stratified(np.arange(10), held_out, seed=0)


# ----------------------------------------------------- images, targets and answers


def test_to_images_scales_to_the_unit_interval(homework):
    pixels = np.zeros((2, 28, 28), np.uint8)
    pixels[1, 3, 4], pixels[1, 5, 6] = 255, 51
    images = homework.to_images(pixels)
    assert images.dtype == np.float32
    assert images.shape == (2, 28, 28, 1)
    assert images[1, 3, 4, 0] == 1
    assert images[1, 5, 6, 0] == np.float32(0.2)
    assert images.sum() == pytest.approx(1.2)


def test_one_hot_marks_each_digit(homework):
    targets = homework.one_hot([2, 0])
    assert targets.dtype == np.float32
    expected = [[0, 0, 1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert targets.tolist() == expected


def test_half_way_gives_half_to_each_of_two_digits(homework):
    targets = homework.half_way([(2, 3), (9, 0)])
    assert targets.dtype == np.float32
    assert targets[0].tolist() == [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]
    assert targets[1].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5]


def test_divergence_equals_a_calculation_by_hand(homework):
    answer = np.array([0.2, 0.5, *[0.3 / 8] * 8], np.float32)
    targets = np.zeros((2, 10), np.float32)
    targets[0, :2] = 0.7, 0.3
    targets[1, :2] = 0.5, 0.5
    logits = np.log(answer) + np.array([[0.0], [3.0]], np.float32)
    expected = [
        0.7 * math.log(0.7 / 0.2) + 0.3 * math.log(0.3 / 0.5),
        0.5 * math.log(0.5 / 0.2),
    ]
    found = homework.divergence(targets, logits).numpy()
    assert found == pytest.approx(expected, rel=1e-5)


def test_divergence_vanishes_when_the_answer_is_the_target(homework):
    targets = np.random.default_rng(0).dirichlet(np.ones(10), 5).astype(np.float32)
    found = homework.divergence(targets, np.log(targets) - 2).numpy()
    assert found == pytest.approx(np.zeros(5), abs=1e-6)


def test_divergence_from_one_digit_is_minus_the_log_of_its_probability(homework):
    logits = np.random.default_rng(0).normal(0, 3, (10, 10)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = homework.divergence(homework.one_hot(np.arange(10)), logits).numpy()
    assert found == pytest.approx(-np.log(np.diag(probabilities)), rel=1e-5)


def test_divergence_stays_finite_for_large_logits(homework):
    logits = np.full((2, 10), -1e4, np.float32)
    logits[:, 0] = 1e4
    found = homework.divergence(homework.one_hot([0, 1]), logits).numpy()
    assert found.tolist() == [0, 2e4]


def test_predict_gives_the_softmax_of_the_logits_in_order(homework, linear_model):
    images = np.random.default_rng(0).random((503, 28, 28, 1), np.float32)
    answers = homework.predict(linear_model, images)
    assert answers.shape == (503, 10)
    assert answers.sum(axis=1) == pytest.approx(np.ones(503), abs=1e-5)
    weights, bias = linear_model.layers[-1].get_weights()
    powers = np.exp(images.reshape(503, -1) @ weights + bias)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers, expected, rtol=1e-4)


def test_draw_digits_gives_what_is_wanted_without_repeats(homework, mnist):
    labels = mnist["y_test"]
    wanted = np.array([2, 0, 2, 9, 2, 0] * 20)
    chosen = homework.draw_digits(labels, wanted, seed=1)
    np.testing.assert_array_equal(labels[chosen], wanted)
    assert len(set(chosen)) == len(wanted)


def test_draw_digits_refuses_more_than_there_are(homework):
    labels = np.array([1, 1, 3, 3, 3])
    with pytest.raises(ValueError, match="expected 4 images of 3, got 3"):
        homework.draw_digits(labels, np.array([1, 3, 3, 3, 3]), seed=1)


def test_draw_digits_follows_from_the_seed(homework, mnist):
    first, again, other = (
        homework.draw_digits(mnist["y_test"], np.arange(10), seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# ------------------------------------------------------------- figures and tables


def test_show_displays_once_with_alternative_text(homework, displayed):
    figure = homework.plt.figure()
    homework.show(figure, "A white sheet")
    options = {"metadata": {"image/png": {"alt": "A white sheet"}}}
    assert displayed == [(figure, options)]


def test_show_digits_keeps_order_and_scale(homework, displayed):
    images = np.random.default_rng(0).random((5, 28, 28, 1)) / 2
    captions = ["a", "b", "c", "d", "e"]
    homework.show_digits(images, "Five", "five images", 3, captions, ["one", "two"])
    ((figure, options),) = displayed
    assert options["metadata"]["image/png"]["alt"] == "five images"
    assert figure.get_suptitle() == "Five"
    assert len(figure.axes) == 6
    for axis, image, caption in zip(figure.axes[:5], images, captions, strict=True):
        (shown,) = axis.images
        np.testing.assert_array_equal(shown.get_array(), image[..., 0])
        assert shown.get_clim() == (0, 1)
        assert axis.get_title() == caption
    assert not figure.axes[5].images
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["one", "", "", "two", "", ""]


def test_show_digits_takes_rows_in_any_nesting(homework, displayed):
    images = np.random.default_rng(0).random((2, 3, 28, 28, 1))
    homework.show_digits(images, "Six", "six images", columns=3)
    homework.show_digits(images[0, 0], "One", "an image", columns=1)
    six, one = (figure for figure, _ in displayed)
    np.testing.assert_array_equal(
        six.axes[4].images[0].get_array(), images[1, 1, ..., 0]
    )
    assert len(one.axes) == 1


def test_show_table_displays_markdown(homework, displayed):
    homework.show_table(["set", 1], [["a", 2.5], ["b", "50 %"]])
    ((table, _),) = displayed
    lines = ["| set | 1 |", "| --- | --- |", "| a | 2.5 |", "| b | 50 % |"]
    assert table.data.splitlines() == lines
