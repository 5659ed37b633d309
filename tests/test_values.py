"""What the homework's functions compute, beside other libraries or by hand."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, special, stats
from scipy.spatial import distance


def images_of(*rows: str) -> np.ndarray:
    """Return an image (1, 28, 28, 1) drawn with # at its top left."""
    image = np.zeros((1, 28, 28, 1), "float32")
    for y, row in enumerate(rows):
        for x, mark in enumerate(row):
            image[0, y, x] = mark == "#"
    return image


# ------------------------------------------------------------- shares, data, network


@pytest.mark.parametrize(("hits", "number"), [(0, 20), (81, 263), (9_962, 10_000)])
def test_a_share_has_the_interval_that_scipy_gives(homework, hits, number):
    interval = stats.binomtest(hits, number).proportion_ci(method="wilson")
    expected = f"{hits / number:.2%} ({interval.low:.2%} to {interval.high:.2%})"
    values = np.arange(number) < hits
    assert homework.describe_share(values) == expected


def test_the_network_has_eight_convolutions_and_three_dense_layers(homework):
    learned = [x for x in homework.build_network().layers if x.weights]
    kinds = [type(layer).__name__ for layer in learned]
    assert kinds == ["Conv2D"] * 8 + ["Dense"] * 3


# ----------------------------------------------------------------------- the batches


def test_a_transformation_is_what_scipy_makes_of_it(homework, mnist):
    """All eight amounts at once, and none, on two digits."""
    amounts = np.random.default_rng(1).uniform(-1, 1, (8, 2)).astype("float32")
    amounts[:, 1] = 0
    images = mnist[0][:2]
    found = homework.transform(tf.constant(images), tf.constant(amounts))
    np.testing.assert_array_equal(found[1], images[1])
    turn, tall, wide, shear, right, down, tilt_x, tilt_y = amounts[:, 0].astype(float)
    cos, sin = np.cos(np.radians(15 * turn)), np.sin(np.radians(15 * turn))
    turned = np.array([[cos, sin], [0.2 * shear - sin, cos]])
    matrix = turned * np.exp([0.15 * wide, 0.15 * tall])
    # from pixels (x, y) of the result to those of the digit, about its middle
    places = np.stack(np.meshgrid(range(28), range(28)), axis=-1).reshape(-1, 2)
    sources = (places - 13.5) @ matrix.T + 13.5 + [2 * right, 2 * down]
    sources /= 1 + 0.002 * places @ [[tilt_x], [tilt_y]]
    expected = ndimage.map_coordinates(images[0, ..., 0], sources.T[::-1], order=1)
    inside = np.s_[2:-2, 2:-2]  # the two treat the outermost pixels differently
    expected = expected.reshape(28, 28)[inside]
    np.testing.assert_allclose(found[0, ..., 0][inside], expected, atol=2e-5)


def test_a_mixture_holds_as_much_certainty_as_digit(homework):
    tf.random.set_seed(1)
    white, targets = tf.ones((2_000, 28, 28, 1)), tf.one_hot([3] * 2_000, 10)
    mixture = homework.mix_with_noise(white, targets, tf.zeros_like(white))
    mixed, softened = (x.numpy() for x in mixture)
    share = mixed[:, 0, 0, 0]  # white mixed with black is as bright as its share
    np.testing.assert_array_equal(
        mixed, np.ones_like(mixed) * share[:, None, None, None]
    )
    certainty = softened[:, 3] - softened[:, 0]
    np.testing.assert_allclose(softened.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(certainty, np.minimum(share / 0.6, 1), atol=1e-5)
    assert stats.kstest(share, "uniform").pvalue > 1e-6


def test_noise_is_half_uniform_and_half_from_the_gaussian(homework):
    tf.random.set_seed(1)
    mean, deviation = 0.5, 0.01
    gaussian = np.full(784, mean, "float32"), deviation * np.eye(784, dtype="float32")
    noise = homework.draw_noise(gaussian, 1_000).numpy()
    spread = noise.std(axis=(1, 2, 3))
    uniform = spread > 0.1
    assert stats.binomtest(int(uniform.sum()), 1_000).pvalue > 1e-6
    assert spread[~uniform].mean() == pytest.approx(deviation, rel=0.02)
    assert spread[uniform].mean() == pytest.approx(12**-0.5, rel=0.01)
    alone = homework.draw_noise(gaussian, 100, blots=0.0).numpy()
    assert alone.std(axis=(1, 2, 3)).min() > 0.1


def test_blots_vary_together_as_the_digits_do(homework, mnist):
    _, covariance = homework.fit_gaussian(mnist[0][:2_000], 1e-4)
    tf.random.set_seed(1)
    gaussian = homework.make_gaussian(mnist[0][:2_000])
    blots = homework.draw_noise(gaussian, 2_000, blots=1.0).numpy().reshape(-1, 784)
    middle, above = 14 * 28 + 14, 13 * 28 + 14
    expected = covariance[middle, above] / np.sqrt(
        covariance[middle, middle] * covariance[above, above]
    )
    found = np.corrcoef(blots[:, middle], blots[:, above])[0, 1]
    assert found == pytest.approx(expected, abs=0.1)  # clipping takes a little


def test_three_eighths_are_mixed_and_the_rest_distorted(homework, mnist):
    digits, labels = mnist[0][:16], np.eye(10, dtype="float32")[mnist[1][:16]]
    tf.random.set_seed(1)
    batch = tf.constant(digits), tf.constant(labels)
    gray = np.full(784, 0.5, "float32"), 0.01 * np.eye(784, dtype="float32")
    images, targets = (x.numpy() for x in homework.prepare_batch(*batch, gray))
    corner = np.s_[:, :4, :4]  # black in every digit, however distorted
    assert np.all(images[:6][corner].max(axis=(1, 2, 3)) > 0)
    assert np.all(images[6:][corner] == 0)
    assert np.all(np.any(images[6:] != digits[6:], axis=(1, 2, 3)))
    assert np.any(targets[:6].max(axis=1) < 1)
    np.testing.assert_array_equal(targets.argmax(axis=1), labels.argmax(axis=1))
    np.testing.assert_array_equal(targets[6:], labels[6:])
    plain, kept = homework.prepare_batch(*batch, None)
    assert np.all(plain.numpy()[corner] == 0)
    np.testing.assert_array_equal(kept, labels)
    still, _ = homework.prepare_batch(*batch, None, distortion=0.0)
    np.testing.assert_allclose(still, digits, atol=1e-5)


def test_no_image_is_learned_and_held_out(homework):
    digits, labels = np.arange(60_000), np.arange(60_000) % 10
    training, held_out = homework.split_digits(digits, labels, 7, 1_000)
    assert len(training[0]) == 1_000 and len(held_out[0]) == 5_000
    assert len(np.union1d(training[0], held_out[0])) == 6_000
    for images, targets in (training, held_out):
        np.testing.assert_array_equal(targets.argmax(axis=1), images % 10)
    again = homework.split_digits(digits, labels, 8, 1_000)
    assert np.any(again[1][0] != held_out[0])


# -------------------------------------------------------------------------- the loss


def test_divergence_is_that_of_scipy_and_never_infinite(homework):
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (6, 10)).astype("float32")
    targets = random.dirichlet(np.ones(10), 6).astype("float32")
    targets[0], logits[0] = np.eye(10)[4], 1000 * np.eye(10)[3]
    found = homework.divergence(targets, logits)
    answers = special.softmax(logits[1:].astype(float), axis=1)
    expected = special.rel_entr(targets[1:], answers).sum(axis=1)
    np.testing.assert_allclose(found, [1000, *expected], rtol=1e-4)


def test_squared_error_by_hand(homework):
    target = np.eye(10, dtype="float32")[:1]
    # softmax of ten equal logits is 0.1: (1 - 0.1)² + 9 · 0.1²
    found = homework.squared_error(target, np.zeros((1, 10), "float32"))
    np.testing.assert_allclose(found, [0.9], rtol=1e-6)


def test_unlikeness_is_the_mahalanobis_distance_to_all_digits(homework, mnist):
    digits = mnist[0][:2_000]
    prior = homework.make_prior(digits)
    images = mnist[0][2_000:2_003]
    pixels = digits.reshape(-1, 784).astype(float)
    covariance = np.cov(pixels, rowvar=False) + 0.02 * np.eye(784)
    away = images.reshape(-1, 784) - pixels.mean(axis=0)
    expected = [a @ np.linalg.solve(covariance, a) / 784 for a in away]
    np.testing.assert_allclose(homework.unlikeness(images, prior), expected, rtol=1e-3)
    mean = prior[0].reshape(1, 28, 28, 1)
    assert homework.unlikeness(mean, prior).numpy() == pytest.approx(0, abs=1e-6)


def test_grayness_is_zero_for_black_and_white_and_largest_for_gray(homework):
    images = np.concatenate([images_of("##  #"), np.full((1, 28, 28, 1), 0.5)])
    found = homework.grayness(np.float32(images))
    np.testing.assert_allclose(found, [0, 784 / 4])


def test_what_is_wider_than_a_pen_by_hand_and_by_scipy(homework, mnist):
    strokes = np.zeros((3, 28, 28, 1), "float32")
    strokes[0, 5:20, 10:13] = 1  # three pixels wide
    strokes[1, 10:15, 10:15] = 1  # a block of 5 × 5
    strokes[2, 10:16, 10:17] = 0.5  # of 6 × 7: two by three windows
    np.testing.assert_allclose(homework.excess_width(strokes), [0, 1, 3])
    digits = mnist[0][:5]
    windows = ndimage.minimum_filter(digits, size=(1, 5, 5, 1))
    expected = windows.sum(axis=(1, 2, 3))
    assert expected.max() > 0
    np.testing.assert_allclose(homework.excess_width(digits), expected, rtol=1e-5)


# ----------------------------------------------------------------------- the descent


@pytest.fixture(scope="module")
def prior(homework, mnist):
    """The Gaussian of a part of the digits."""
    return homework.make_prior(mnist[0][:2_000])


@pytest.fixture(scope="module")
def alone():
    """Options that leave the fit alone."""
    off = "view_noise", "pose", "prior_weight", "sharpening", "pen"
    return dict.fromkeys(off, 0.0) | dict(temperature=1.0)


def test_steps_are_those_of_adam_on_the_loss(homework, linear_model, prior, alone):
    """Four steps, beside Keras's Adam on the loss written out."""
    start = np.random.default_rng(1).random((2, 28, 28, 1)).astype("float32")
    targets = tf.constant(np.eye(10, dtype="float32")[[1, 2]])
    options = alone | dict(fit_weight=2.0, prior_weight=0.5, sharpening=0.02, pen=0.03)
    options |= dict(settling=0.5, rate=0.01, bounds=(-9.0, 9.0))
    found = homework.find_images(linear_model, prior, targets, start, 0, 4, **options)
    images = tf.Variable(start)
    adam = homework.keras.optimizers.Adam(0.01, 0.9, 0.95)
    adam.build([images])
    # of the weights: 1, at the last step a tenth; of the last two terms: also growing
    for step, (settle, fade) in enumerate([(1, 1), (1, 1), (1, 1), (0.5, 0.1)]):
        with tf.GradientTape() as tape:
            terms = [
                2 * homework.divergence(targets, linear_model(images)),
                fade * 0.5 * homework.unlikeness(images, prior),
                fade * step / 4 * 0.02 * homework.grayness(images),
                fade * step / 4 * 0.03 * homework.excess_width(images),
            ]
            loss = tf.add_n(terms)
        np.testing.assert_allclose(found["terms"][step], terms, rtol=2e-3, atol=1e-5)
        adam.learning_rate = 0.01 * settle
        adam.apply([tape.gradient(loss, images)], [images])
    np.testing.assert_allclose(found["path"][-1], images.numpy(), atol=2e-4)


def test_the_loss_that_chooses_the_best_is_of_the_rounded_image(
    homework, linear_model, prior
):
    starts, target = homework.random_images([1, 2]), np.eye(10, dtype="float32")[[2]]
    options = dict(fit_weight=3.0, prior_weight=0.7, sharpening=0.02, pen=0.03)
    found = homework.find_images(linear_model, prior, target, starts, 1, 40, **options)
    images = found["images"]
    np.testing.assert_array_equal(images, np.round(images * 255) / np.float32(255))
    terms = 0.7 * homework.unlikeness(images, prior)
    terms += 0.02 * homework.grayness(images) + 0.03 * homework.excess_width(images)
    fit = homework.divergence(target.repeat(2, axis=0), linear_model(images))
    np.testing.assert_allclose(found["loss"], 3 * fit + terms, rtol=1e-4)


def test_a_descent_begun_half_way_is_the_second_half_of_a_whole_one(
    homework, linear_model, prior, monkeypatch
):
    plans = []

    def record(*arguments):
        plans.append({name: x.numpy().tolist() for name, x in arguments[-1].items()})
        return arguments[4], tf.zeros((4, 1))

    monkeypatch.setattr(homework, "take_step", record)
    start, target = homework.random_images([1]), np.eye(10)[2]
    for begin in (0.0, 0.5):
        options = dict(begin=begin, settling=0.25, pose=2.0)
        homework.find_images(linear_model, prior, target, start, 7, 40, **options)
    whole, half = plans[20:40], plans[40:]
    assert [plan.pop("number") for plan in half] == list(range(1, 21))
    assert [plan.pop("number") for plan in whole] == list(range(21, 41))
    assert whole == half
    assert [plan["pose"] for plan in half] == [2] * 10 + [0] * 10


def test_the_network_sees_the_mixture_at_the_temperature(homework, prior, alone):
    """A network that answers with ten pixels: the first view is noise alone."""

    def network(images, training=False):
        return tf.reshape(images, (-1, 784))[:, :10]

    start, target = homework.random_images([1]), np.eye(10, dtype="float32")[:1]
    options = alone | dict(settling=0.5, view_noise=1.0, temperature=5.0)
    found = homework.find_images(network, prior, target, start, 3, 4, **options)
    np.testing.assert_array_equal(found["path"][1], start)  # nothing of it was seen
    noises = [tf.random.stateless_uniform((1, 28, 28, 1), [3, step]) for step in (0, 1)]
    views = [noises[0] / 5, (start + noises[1]) / 2 / 5, found["path"][2]]
    for view, terms in zip(views, found["terms"], strict=False):
        fit = homework.divergence(target, network(view))
        np.testing.assert_allclose(terms, [fit, [0], [0], [0]], rtol=1e-5)


def test_the_descent_meets_every_target_of_a_linear_network(
    homework, linear_model, prior, alone
):
    targets = np.vstack([np.eye(10), [[0, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]]])
    starts, options = homework.random_images(np.arange(11)), alone | dict(settling=0.5)
    found = homework.find_images(linear_model, prior, targets, starts, 1, 99, **options)
    answers = special.softmax(linear_model(found["images"]).numpy(), axis=1)
    np.testing.assert_allclose(found["probabilities"], answers, atol=1e-6)
    gaps = np.abs(answers - targets).max(axis=1)
    assert gaps.max() < 0.01
    assert 0 <= found["images"].min() <= found["images"].max() <= 1
    np.testing.assert_allclose(found["gap"], gaps, atol=1e-6)
    expected = special.rel_entr(targets, answers.astype(float)).sum(axis=1)
    np.testing.assert_allclose(found["fit"], expected, atol=1e-5)


@pytest.mark.parametrize(("begin", "first"), [(0.0, 0), (0.75, 44)])
def test_the_path_holds_the_images_after_the_steps_it_names(
    homework, linear_model, prior, alone, begin, first
):
    """Of 59 steps, along a slope that is the same everywhere: all are equally long."""
    start = np.full((1, 28, 28, 1), 0.5, "float32")
    options = alone | dict(begin=begin, settling=0.0, rate=0.005)
    options["error"] = lambda targets, logits: tf.reduce_sum(logits, axis=1)
    target = np.eye(10)[2]
    found = homework.find_images(linear_model, prior, target, start, 5, 59, **options)
    stages, path = found["stages"], found["path"]
    assert (stages[0], stages[-1], len(stages)) == (first, 59, min(41, 60 - first))
    slope = linear_model.layers[-1].kernel.numpy().sum(axis=1).reshape(28, 28, 1)
    steps = (stages - first)[:, None, None, None]
    steep = np.abs(slope) > 0.01
    moved = np.where(steep, path[:, 0] - 0.5, 0)
    expected = np.where(steep, -0.005 * steps * np.sign(slope), 0)
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    assert len(found["terms"]) == 59 - first


def test_start_and_noise_have_seeds_of_their_own(homework, linear_model, prior):
    find = partial(homework.find_images, linear_model, prior, np.eye(10)[2], steps=20)
    one, other = (homework.random_images([seed]) for seed in (1, 2))
    first, again, *changed = (
        find(*x)["images"] for x in ((one, 5), (one, 5), (other, 5), (one, 6))
    )
    np.testing.assert_array_equal(again, first)
    assert all(np.any(images != first) for images in changed)


# ------------------------------------------------------------------ slope, variation


def test_the_direction_of_descent_by_hand_and_its_cosine_by_scipy(
    homework, linear_model
):
    images, targets = homework.random_images([1, 2]), np.eye(10, dtype="float32")[4:6]
    found = homework.descent_direction(linear_model, images, targets)
    answers = special.softmax(linear_model(images).numpy(), axis=1)
    kernel = linear_model.layers[-1].kernel.numpy()
    expected = (targets - answers) @ kernel.T
    np.testing.assert_allclose(found.reshape(2, 784), expected, atol=1e-6)
    away = 1 - images
    pairs = zip(expected, away.reshape(2, 784), strict=True)
    cosines = [1 - distance.cosine(*pair) for pair in pairs]
    assert homework.mean_cosine(found, away) == pytest.approx(
        np.mean(cosines), abs=1e-5
    )


def test_the_share_that_rows_and_columns_explain_by_hand(homework):
    random = np.random.default_rng(1)
    rows, columns = random.random((5, 1, 28, 28, 1)), random.random((1, 8, 28, 28, 1))
    alike = np.repeat(rows, 8, axis=1)
    assert homework.share_explained(alike, 1) == pytest.approx(1)
    assert homework.share_explained(alike, 0) == pytest.approx(0)
    parts = [x.var(axis=(0, 1)).sum() for x in (rows, columns)]
    for axis, part in zip((1, 0), parts, strict=True):
        found = homework.share_explained(rows + columns, axis)
        assert found == pytest.approx(part / sum(parts))


# -------------------------------------------------------------------- starts, judges


def test_random_images_are_uniform_and_each_has_its_seed(homework):
    images = homework.random_images(np.arange(50))
    assert images.shape == (50, 28, 28, 1)
    assert stats.kstest(images.ravel(), "uniform").pvalue > 1e-6
    np.testing.assert_array_equal(homework.random_images([7]), images[7:8])


def test_noisy_digits_are_different_digits_of_the_kind_asked_for(homework, mnist):
    digits, labels = mnist[0][:2_000], mnist[1][:2_000]
    wanted = np.array([3, 3, 5, 3])
    sources, noisy = homework.noisy_digits(digits, labels, wanted, 0.2, seed=1)
    places = [
        int(np.flatnonzero((digits == source).all(axis=(1, 2, 3)))[0])
        for source in sources
    ]
    assert len(set(places)) == 4
    np.testing.assert_array_equal(labels[places], wanted)
    middle = (noisy > 0) & (noisy < 1) & (sources > 0.4) & (sources < 0.6)
    assert (noisy - sources)[middle].std() == pytest.approx(0.2, rel=0.25)


def test_judges_are_asked_for_the_digit_wanted(homework):
    stubborn = SimpleNamespace(
        predict=lambda images, **_: np.eye(10)[[3] * len(images)]
    )
    read = homework.ask_judges([stubborn] * 2, np.zeros(4), np.array([3, 5, 3, 0]))
    np.testing.assert_array_equal(read, [[True, False, True, False]] * 2)


# ---------------------------------------------------------- shape, sharpness, spread


@pytest.mark.parametrize("diagonal", [True, False])
def test_parts_are_those_of_scipy(homework, diagonal):
    masks = np.random.default_rng(1).random((40, 30, 30)) < 0.45
    found = homework.label_parts(masks, diagonal)
    structure = np.ones((3, 3)) if diagonal else None
    for mask, parts in zip(masks, found, strict=True):
        expected, count = ndimage.label(mask, structure)
        pairs = set(zip(parts.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len(pairs) == count + 1  # one number of ours for each of SciPy's


@pytest.mark.parametrize(
    ("rows", "pieces", "holes"),
    [
        (["####", "#  #", "####"], 1, 1),
        (["####", "    ", "####"], 2, 0),
        (["####", "    ", "### "], 1, 0),  # a piece of three pixels is too small
        (["####", "#  #", "####", "#  #", "####"], 1, 2),
        ([" ## ", "#  #", " ## "], 1, 1),  # strokes meet at corners, paper does not
    ],
)
def test_pieces_and_holes_by_hand(homework, rows, pieces, holes):
    found = homework.count_pieces_and_holes(images_of(*rows))
    assert [int(x[0]) for x in found] == [pieces, holes]


def test_a_ring_has_the_shape_of_digits_with_one_hole(homework):
    ring, wanted = images_of("###", "# #", "###"), np.arange(20) % 10
    found = homework.measure_images(np.repeat(ring, 20, axis=0), wanted)
    assert set(wanted[found["shape"]]) == {0, 2, 4, 6, 9}


def test_measures_of_real_digits_are_those_of_scipy(homework, mnist):
    digits, labels = mnist[0][:600], mnist[1][:600]
    found = homework.measure_images(digits, labels)
    assert found["shape"].mean() > 0.8
    assert found["gray"] == pytest.approx(np.mean(digits[digits > 0.1] < 0.9))
    for digit in range(10):
        group = digits[labels == digit]
        spread = distance.pdist(group.reshape(-1, 784)).mean()
        assert found["spread"][digit] == pytest.approx(spread, rel=1e-4)
        depths = [ndimage.distance_transform_edt(x).max() for x in group[..., 0] > 0.5]
        assert found["thick"][digit] == pytest.approx(np.mean(depths))
    relative = homework.measure_images(digits, labels, found)
    np.testing.assert_allclose([relative["spread"], relative["thick"]], 1)
    assert homework.thickness(np.zeros((1, 28, 28, 1))) == 0
