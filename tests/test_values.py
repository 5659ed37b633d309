"""What the homework's functions compute, beside other libraries or by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage, special, stats
from scipy.spatial.distance import pdist
from sklearn.neighbors import KNeighborsClassifier


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
    assert homework.describe_share(values, 2) == expected


def test_the_network_is_deeper_than_alexnet_and_works_as_much_for_a_pixel(homework):
    learned = [x for x in homework.build_network().layers if x.weights]
    kinds = [type(layer).__name__ for layer in learned]
    assert kinds == ["Conv2D"] * 8 + ["Dense"] * 3
    # by hand: positions × kernel area × channels in × channels out, layer by layer
    work = 28**2 * 9 * 16 + 14**2 * 9 * (16 * 32 + 2 * 32 * 32)
    work += 7**2 * 9 * (32 * 64 + 2 * 64 * 64) + 5**2 * 9 * 64 * 128
    work += 3200 * 128 + 128 * 64 + 64 * 10
    assert work == 11_406_208
    assert work / 28**2 > 724_406_816 / 224**2


# ----------------------------------------------------------------------- the batches


def test_no_amount_of_transformation_changes_nothing(homework, mnist):
    digits = mnist[0][:5]
    found = homework.transform(tf.constant(digits), tf.zeros((8, 5)))
    np.testing.assert_array_equal(found, digits)


@pytest.mark.parametrize("row", range(6))
def test_a_transformation_is_what_scipy_makes_of_it(homework, mnist, row):
    amounts = np.zeros((8, 1), "float32")
    amounts[row] = 0.7
    image = mnist[0][:1]
    found = homework.transform(tf.constant(image), tf.constant(amounts))
    angle, tall, wide = math.radians(10.5) * (row == 0), 0.0, 0.0
    tall, wide = (math.exp(0.105 * (row == each)) for each in (1, 2))
    shear, x, y = 0.14 * (row == 3), 1.4 * (row == 4), 1.4 * (row == 5)
    # output pixel to input pixel, about the middle of the image; SciPy takes (y, x)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[tall * cos, wide * (shear - sin)], [tall * sin, wide * cos]])
    offset = 13.5 + np.array([y, x]) - matrix @ [13.5, 13.5]
    options = dict(offset=offset, order=1, mode="constant", prefilter=False)
    expected = ndimage.affine_transform(image[0, ..., 0], matrix, **options)
    inside = np.s_[2:-2, 2:-2]  # the two treat the outermost pixels differently
    np.testing.assert_allclose(found[0, ..., 0][inside], expected[inside], atol=2e-5)


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
    np.testing.assert_allclose(certainty, np.minimum(share / 0.8, 1), atol=1e-5)
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


def test_blots_vary_together_as_the_digits_do(homework, mnist):
    mean, covariance = homework.fit_gaussian(mnist[0][:2_000], 1e-4)
    tf.random.set_seed(1)
    gaussian = mean, np.linalg.cholesky(covariance)
    noise = homework.draw_noise(gaussian, 4_000).numpy().reshape(-1, 784)
    blots = noise[noise[:, 0] < 0.05]  # the corner is black in all digits
    middle, above = 14 * 28 + 14, 13 * 28 + 14
    expected = covariance[middle, above] / np.sqrt(
        covariance[middle, middle] * covariance[above, above]
    )
    found = np.corrcoef(blots[:, middle], blots[:, above])[0, 1]
    assert found == pytest.approx(expected, abs=0.1)  # clipping takes a little


def test_noise_has_every_strength_up_to_one(homework):
    tf.random.set_seed(1)
    noisy = homework.add_noise(tf.fill((2_000, 28, 28, 1), 0.5)).numpy()
    assert noisy.min() == 0
    assert noisy.max() == 1
    # |N(0, s)| clipped at 0.5, s from 0 to 1: by quadrature
    deviations = np.linspace(0.0005, 0.9995, 1_000)[:, None]
    grid = (np.arange(4_000) + 0.5) / 4_000
    size = np.minimum(np.abs(stats.norm.ppf(grid) * deviations), 0.5).mean()
    assert np.abs(noisy - 0.5).mean() == pytest.approx(size, rel=0.02)


def test_a_quarter_is_mixed_a_quarter_noisy_and_the_rest_distorted(homework, mnist):
    digits, labels = mnist[0][:16], np.eye(10, dtype="float32")[mnist[1][:16]]
    tf.random.set_seed(1)
    batch = tf.constant(digits), tf.constant(labels), tf.constant(0.0)
    gray = np.full(784, 0.5, "float32"), 0.01 * np.eye(784, dtype="float32")
    images, targets = (x.numpy() for x in homework.prepare_batch(*batch, gray))
    corner = np.s_[:, :4, :4]  # black in every digit, however distorted
    assert np.all(images[:8][corner].max(axis=(1, 2, 3)) > 0)
    assert np.all(images[8:][corner] == 0)
    assert np.all(targets[:4].max(axis=1) <= 1)
    np.testing.assert_array_equal(targets[4:], labels[4:])
    plain, kept = homework.prepare_batch(*batch, None)
    assert np.all(plain.numpy()[corner] == 0)
    np.testing.assert_array_equal(kept, labels)


# -------------------------------------------------------------------------- the loss


def test_divergence_is_that_of_scipy(homework):
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (6, 10)).astype("float32")
    targets = random.dirichlet(np.ones(10), 6).astype("float32")
    targets[0] = np.eye(10)[4]
    found = homework.divergence(targets, logits)
    answers = special.softmax(logits.astype(float), axis=1)
    expected = special.rel_entr(targets, answers).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_divergence_of_a_hopeless_answer_is_finite(homework):
    logits = np.array([[1000.0] + [0.0] * 9], "float32")
    assert homework.divergence(np.eye(10, dtype="float32")[1:2], logits) == 1000


def test_squared_error_by_hand(homework):
    target = np.eye(10, dtype="float32")[:1]
    # softmax of ten equal logits is 0.1: (1 - 0.1)² + 9 · 0.1²
    found = homework.squared_error(target, np.zeros((1, 10), "float32"))
    np.testing.assert_allclose(found, [0.9], rtol=1e-6)


def test_unlikeness_is_the_mahalanobis_distance_to_all_digits(homework, mnist):
    digits = mnist[0][:2_000]
    mean, covariance = homework.fit_gaussian(digits, 0.02)
    prior = mean, np.linalg.inv(covariance)
    images = mnist[0][2_000:2_003]
    pixels = digits.reshape(-1, 784).astype(float)
    covariance = np.cov(pixels, rowvar=False) + 0.02 * np.eye(784)
    away = images.reshape(-1, 784) - pixels.mean(axis=0)
    expected = [a @ np.linalg.solve(covariance, a) / 784 for a in away]
    np.testing.assert_allclose(homework.unlikeness(images, prior), expected, rtol=1e-3)
    mean = mean.reshape(1, 28, 28, 1)
    assert homework.unlikeness(mean, prior).numpy() == pytest.approx(0, abs=1e-6)


def test_grayness_is_zero_for_black_and_white_and_largest_for_gray(homework):
    gray = np.full((1, 28, 28, 1), 0.5, "float32")
    assert homework.grayness(gray).numpy() == pytest.approx(784 / 4)
    assert homework.grayness(images_of("##  #")).numpy() == 0


# ----------------------------------------------------------------------- the descent


@pytest.fixture(scope="module")
def prior(homework, mnist):
    """The Gaussian of a part of the digits."""
    mean, covariance = homework.fit_gaussian(mnist[0][:2_000], 0.02)
    return mean, np.linalg.inv(covariance)


@pytest.fixture(scope="module")
def alone():
    """Options that leave the fit alone."""
    off = dict.fromkeys(("view_noise", "pose", "prior_weight", "sharpening"), 0.0)
    return off | dict(temperature=1.0)


def test_a_step_is_one_of_adam_on_the_loss(homework, linear_model, prior):
    """The first three steps, beside Keras's Adam on the loss written out."""
    start = np.random.default_rng(1).random((2, 28, 28, 1)).astype("float32")
    targets = tf.constant(np.eye(10, dtype="float32")[[1, 2]])
    steps, rate = 3, 0.01
    options = dict(steps=steps, settling=1.0, rate=rate, bounds=(-9.0, 9.0))
    weights = dict(prior_weight=0.5, sharpening=0.02)
    found = homework.find_images(
        linear_model, prior, targets, start, 0, **options, **weights
    )
    images = tf.Variable(start)
    adam = homework.keras.optimizers.Adam(rate, 0.9, 0.95)
    adam.build([images])
    for step in range(steps):
        settle = (steps - step) / steps
        fade = max(0.1, 2 * settle - 1)  # falls to a tenth in half the time
        with tf.GradientTape() as tape:
            loss = homework.divergence(targets, linear_model(images))
            loss += fade * 0.5 * homework.unlikeness(images, prior)
            loss += fade * 0.02 * step / steps * homework.grayness(images)
        adam.learning_rate = rate * settle
        adam.epsilon = 1e-3 * math.sqrt(1 - 0.95 ** (step + 1))  # as Kingma writes it
        adam.apply([tape.gradient(loss, images)], [images])
    np.testing.assert_allclose(found["path"][-1], images.numpy(), atol=2e-4)


def test_the_network_sees_the_mixture_at_the_temperature(homework, prior):
    """A network that keeps what it is given: the first view is noise alone."""
    seen = []

    def network(images, training=False):
        seen.append(tf.identity(images))
        return tf.reshape(images, (-1, 784))[:, :10]

    start = np.zeros((1, 28, 28, 1), "float32")
    targets = tf.constant(np.eye(10, dtype="float32")[:1])
    plan = dict(noise=1.0, pose=0.0, temperature=5.0, prior=0.0, sharpening=0.0)
    plan |= dict(rate=0.1, number=1.0, low=0.0, high=1.0)
    plan = {name: tf.constant(value) for name, value in plan.items()}
    plan["seed"] = tf.constant([3, 4])
    state = tf.constant(start), tf.zeros_like(start), tf.zeros_like(start)
    poses = tf.zeros((8, 1))
    step = homework.take_step.python_function
    asked = []

    def error(targets, logits):
        asked.append(logits)
        return homework.divergence(targets, logits)

    moved, average, _ = step(network, error, prior, targets, state, poses, plan)
    noise = tf.random.stateless_uniform((1, 28, 28, 1), [3, 4])
    np.testing.assert_array_equal(seen[0], noise)
    np.testing.assert_allclose(asked[0], noise.numpy().reshape(1, 784)[:, :10] / 5)
    np.testing.assert_array_equal(average, 0)  # nothing of the image is seen
    np.testing.assert_array_equal(moved, start)


def test_the_descent_reaches_every_target_of_a_linear_network(
    homework, linear_model, prior, alone
):
    targets = np.vstack([np.eye(10), [[0, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]]])
    starts = homework.random_images(np.arange(11))
    found = homework.find_images(
        linear_model, prior, targets, starts, 1, steps=200, settling=0.5, **alone
    )
    assert found["fits"].max() < 1e-3
    logits = linear_model(found["images"])
    answers = special.softmax(logits.numpy(), axis=1)
    np.testing.assert_allclose(found["probabilities"], answers, atol=1e-6)
    np.testing.assert_array_equal(
        found["images"], np.round(found["images"] * 255) / 255
    )
    assert found["images"].min() >= 0
    assert found["images"].max() <= 1
    assert found["path"].shape == (41, 11, 28, 28, 1)
    np.testing.assert_array_equal(found["path"][0], starts)


def test_start_and_noise_have_seeds_of_their_own(homework, linear_model, prior):
    find = homework.partial(homework.find_images, linear_model, prior, np.eye(10)[2])
    one, other = (homework.random_images([seed]) for seed in (1, 2))
    first = find(one, 5, steps=20)["images"]
    np.testing.assert_array_equal(find(one, 5, steps=20)["images"], first)
    assert np.any(find(other, 5, steps=20)["images"] != first)
    assert np.any(find(one, 6, steps=20)["images"] != first)
    np.testing.assert_array_equal(find(one, 5, steps=20)["noise_seed"], [5])


def test_a_late_beginning_takes_the_last_steps_alone(homework, linear_model, prior):
    start = homework.random_images([1])
    whole = homework.find_images(linear_model, prior, np.eye(10)[2], start, 5, steps=40)
    late = homework.find_images(
        linear_model, prior, np.eye(10)[2], start, 5, steps=40, begin=0.75
    )
    moved = [np.abs(x["path"][-1] - start).mean() for x in (whole, late)]
    assert 0 < moved[1] < moved[0]
    assert len(late["path"]) == 11


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


def test_the_vote_is_that_of_scikit_learn(homework, mnist):
    digits, labels, asked = mnist[0][:3_000], mnist[1][:3_000], mnist[2][:1_100]
    found = homework.vote_of_neighbours(asked, digits, labels)
    judge = KNeighborsClassifier(5).fit(digits.reshape(-1, 784), labels)
    expected = judge.predict(asked.reshape(-1, 784))
    assert np.mean(found == expected) > 0.999  # but for ties of distances


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


def test_the_mean_distance_is_that_of_scipy(homework, mnist):
    digits = mnist[0][:30]
    expected = pdist(digits.reshape(30, 784)).mean()
    assert homework.mean_distance(digits) == pytest.approx(expected, rel=1e-5)


def test_measures_of_real_digits_and_of_their_negatives(homework, mnist):
    digits, labels = mnist[0][:600], mnist[1][:600]
    found = homework.measure_images(digits, labels, digits, labels)
    assert found["shape"].mean() > 0.8
    assert found["spread"] == pytest.approx(1)
    inked = digits > 0.1
    expected = np.mean(digits[inked] < 0.9)
    assert found["gray"] == pytest.approx(expected)
    negative = homework.measure_images(1 - digits, labels, digits, labels)
    assert negative["shape"].mean() < 0.3
