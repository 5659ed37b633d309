"""Part 2: the loss, the descent on the pixels, its starts and its results."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tf(homework):
    """TensorFlow."""
    return homework.tf


@pytest.fixture(scope="session")
def typical(homework, mnist):
    """The statistics of real digits."""
    images = homework.to_images(mnist["x_test"][:2000])
    return homework.measure_digits(images, mnist["y_test"][:2000])


def noise_images(count: int, seed: int = 0) -> np.ndarray:
    """Return images of uniform noise."""
    return np.random.default_rng(seed).random((count, 28, 28, 1), np.float32)


def only_multiples(images: np.ndarray) -> bool:
    """Tell whether all pixels are multiples of 1/255."""
    return bool(np.abs(images * 255 - np.round(images * 255)).max() < 1e-3)


# ---------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([(14, 14)], [1, 4, 0]),
        ([(0, 0)], [1, 2, 1]),
        ([(4, 4), (23, 23)], [2, 8, 0]),
        ([(3, 14), (24, 14), (14, 3), (14, 24)], [4, 16, 4]),
        ([(14, 14), (14, 15), (15, 14)], [3, 8, 0]),
        ([], [0, 0, 0]),
    ],
)
def test_statistics_of_drawn_images_equal_those_by_hand(homework, pixels, expected):
    image = np.zeros((1, 28, 28, 1), np.float32)
    for place in pixels:
        image[0, place[0], place[1]] = 1
    assert homework.statistics(image).numpy().tolist() == [expected]


def test_statistics_are_taken_image_by_image(homework):
    images = np.zeros((2, 28, 28, 1), np.float32)
    images[1] = 0.5
    found = homework.statistics(images).numpy()
    assert found.tolist() == [[0, 0, 0], [392, 0, 192]]


def test_measure_digits_gives_mean_and_deviation_of_each_class(homework):
    labels = np.arange(40) % 10
    images = noise_images(40)
    found = homework.measure_digits(images, labels)
    assert found.shape == (2, 10, 3)
    ink = images.sum(axis=(1, 2, 3), dtype=np.float64).reshape(4, 10)
    np.testing.assert_allclose(found[0, :, 0], ink.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found[1, :, 0], ink.std(axis=0), rtol=1e-3)
    border = images.copy()
    border[:, 4:24, 4:24] = 0
    outside = border.sum(axis=(1, 2, 3), dtype=np.float64).reshape(4, 10)
    np.testing.assert_allclose(found[0, :, 2], outside.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found[1, :, 2], outside.std(axis=0), rtol=1e-2)


def regularize(homework, ink_border: tuple, mean: tuple, weights: tuple) -> float:
    """Return the regularization of an image with so many white pixels.

    The deviations are 2, 2 and 4; the mean is that of every class.
    """
    image = np.zeros((1, 28, 28, 1), np.float32)
    inside, border = ink_border
    image[0, 14, 5 : 5 + inside] = 1
    image[0, 0, :border] = 1
    values = np.array([np.tile(mean, (10, 1)), np.tile((2, 2, 4), (10, 1))])
    arguments = (homework.one_hot([3]), values.astype(np.float32))
    weights = np.array(weights, np.float32)
    return float(homework.regularization(image, *arguments, weights)[0])


@pytest.mark.parametrize(
    ("pixels", "mean", "weights", "expected"),
    [
        # at the mean, nothing; else w (√(1 + z²) - 1)
        ((5, 0), (5, 12, 0), (1, 1, 1, 0), 0),
        ((5, 0), (2, 12, 0), (1, 1, 1, 0), np.sqrt(1 + 1.5**2) - 1),
        ((5, 0), (8, 12, 0), (0.4, 1, 1, 0), 0.4 * (np.sqrt(1 + 1.5**2) - 1)),
        # of variation and border, only too much counts
        ((5, 0), (5, 10, 0), (1, 0.2, 1, 0), 0.2 * (np.sqrt(2) - 1)),
        ((5, 0), (5, 14, 0), (1, 0.2, 1, 0), 0),
        ((0, 4), (4, 5, 0), (1, 1, 0.5, 0), 0.5 * (np.sqrt(2) - 1)),
        ((0, 4), (4, 5, 12), (1, 1, 1, 0), 0),
        # smoothness is a multiple of the variation
        ((5, 0), (0, 0, 0), (0, 0, 0, 0.01), 0.12),
        ((5, 0), (2, 10, 0), (0, 0.2, 1, 0.01), 0.2 * (np.sqrt(2) - 1) + 0.12),
        ((5, 0), (0, 0, 0), (0, 0, 0, 0), 0),
    ],
)
def test_regularization_equals_a_calculation_by_hand(
    homework, pixels, mean, weights, expected
):
    found = regularize(homework, pixels, mean, weights)
    assert found == pytest.approx(expected, abs=1e-6)


def test_regularization_of_a_half_way_target_asks_for_the_mean_of_both(homework):
    image = np.zeros((2, 28, 28, 1), np.float32)
    image[:, 14, 5:11] = 1
    typical = np.ones((2, 10, 3), np.float32)
    typical[0, 2, 0], typical[0, 3, 0] = 4, 8
    arguments = (typical, np.array([1, 0, 0, 0], np.float32))
    targets = np.concatenate([homework.half_way([(2, 3)]), homework.one_hot([2])])
    found = homework.regularization(image, targets, *arguments).numpy()
    assert found == pytest.approx([0, np.sqrt(5) - 1], abs=1e-6)


def test_gradient_of_the_fit_equals_finite_differences(homework, tf):
    keras = homework.keras
    keras.utils.set_random_seed(1)
    inputs = keras.Input(homework.IMAGE_SHAPE, dtype="float64")
    x = keras.layers.Flatten(dtype="float64")(inputs)
    x = keras.layers.Dense(5, activation="tanh", dtype="float64")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, dtype="float64")(x))
    image = np.random.default_rng(0).random((1, 28, 28, 1))
    target = np.array([[0, 0, 0.5, 0.3, 0.2, 0, 0, 0, 0, 0]])
    steps = 1e-5 * np.eye(784).reshape(784, 28, 28, 1)

    def fits(images):
        return homework.divergence(np.repeat(target, len(images), 0), model(images))

    slopes = (fits(image + steps) - fits(image - steps)).numpy() / 2e-5
    with tf.GradientTape() as tape:
        tape.watch(image := tf.constant(image))
        fit = fits(image)
    gradient = tape.gradient(fit, image).numpy().ravel()
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-9)
    norm = homework.gradient_norms(model, target, image.numpy())
    assert norm == pytest.approx([np.linalg.norm(slopes)], rel=1e-6)


def test_gradient_norms_are_taken_image_by_image(homework, linear_model):
    images, targets = noise_images(3), homework.one_hot([1, 2, 3])
    together = homework.gradient_norms(linear_model, targets, images)
    alone = [
        homework.gradient_norms(linear_model, targets[i : i + 1], images[i : i + 1])[0]
        for i in range(3)
    ]
    assert together == pytest.approx(alone, rel=1e-4)


def test_squared_error_equals_a_calculation_by_hand(homework):
    logits = np.log(np.array([[0.5, 0.3, *[0.2 / 8] * 8]], np.float32))
    found = homework.squared_error(homework.one_hot([1]), logits).numpy()
    assert found == pytest.approx([0.5**2 + 0.7**2 + 8 * 0.025**2], rel=1e-5)


def test_only_the_squared_error_is_flat_where_the_answer_is_surely_wrong(
    homework, linear_model
):
    model = homework.keras.models.clone_model(linear_model)
    bias = np.zeros(10)
    bias[0] = 30
    model.set_weights([linear_model.get_weights()[0], bias])
    arguments = (model, homework.one_hot([1]), np.zeros((1, 28, 28, 1), np.float32))
    weights = linear_model.get_weights()[0]
    steep = homework.gradient_norms(*arguments)
    flat = homework.gradient_norms(*arguments, loss=homework.squared_error)
    expected = np.linalg.norm(weights[:, 0] - weights[:, 1])
    assert steep == pytest.approx([expected], rel=1e-4)
    assert flat < 1e-9


# --------------------------------------------------------- rounding, disturbing


def test_round_pixels_rounds_and_passes_the_gradient(homework, tf):
    images = tf.constant([0.0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 1.0])
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(homework.round_pixels(images) * [1.0, 2, 3, 4, 5])
    rounded = homework.round_pixels(images).numpy() * 255
    assert rounded == pytest.approx([0, 0, 1, 100, 255], abs=1e-4)
    assert tape.gradient(total, images).numpy().tolist() == [1, 2, 3, 4, 5]


def test_disturbing_by_nothing_changes_nothing(homework):
    images = noise_images(4)
    found = homework.disturb(images, 0.0, 0, (1, 2)).numpy()
    np.testing.assert_array_equal(found, images)


def test_shifts_reach_all_places_and_no_further(homework):
    images = np.zeros((400, 28, 28, 1), np.float32)
    images[:, 14, 14] = 1
    found = homework.disturb(images, 0.0, 2, (1, 2)).numpy()
    assert found.sum(axis=(1, 2, 3)).tolist() == [1] * 400
    places = {(r - 14, c - 14) for _, r, c, _ in np.argwhere(found)}
    assert places == {(r, c) for r in range(-2, 3) for c in range(-2, 3)}


def test_black_comes_in_at_the_edges(homework):
    white = np.ones((50, 28, 28, 1), np.float32)
    found = homework.disturb(white, 0.0, 3, (1, 2)).numpy()
    assert set(np.unique(found)) == {0, 1}
    sizes = {tuple(np.ptp(np.argwhere(image), axis=0)[:2] + 1) for image in found}
    assert {n for size in sizes for n in size} == {25, 26, 27, 28}
    assert found[:, 3:25, 3:25].min() == 1


def test_noise_has_the_asked_deviation_and_stays_between_0_and_1(homework):
    gray = np.full((20, 28, 28, 1), 0.5, np.float32)
    found = homework.disturb(gray, 0.1, 0, (1, 2)).numpy()
    assert found.std() == pytest.approx(0.1, rel=0.05)
    assert np.abs(found[0] - found[1]).max() > 0.1
    strong = homework.disturb(gray, 2.0, 0, (1, 2)).numpy()
    assert strong.min() == 0
    assert strong.max() == 1


def test_disturbance_follows_from_the_seed(homework):
    images = noise_images(4)
    first, again, other = (
        homework.disturb(images, 0.5, 2, seed).numpy()
        for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=0.1)


# ------------------------------------------------------------------- the descent


@pytest.fixture(scope="session")
def settings(typical):
    """A short descent; half of its eight steps settle."""
    return dict(
        typical=typical,
        weights=(0.3, 0.3, 0.3, 0.001),
        steps=8,
        rate=0.1,
        noise=0.5,
        shift=1,
        settling_share=0.5,
        seed=1,
        keep_every=3,
    )


@pytest.fixture(scope="session")
def find(homework, linear_model, settings):
    """Return a descent from four images of noise, with some settings changed."""
    targets = np.concatenate([homework.one_hot([2, 0, 9]), homework.half_way([(2, 3)])])

    def descend(**changes):
        options = settings | changes
        targets_ = options.pop("targets", targets)
        starts = options.pop("initial_images", noise_images(4))
        return homework.optimize_images(linear_model, targets_, starts, **options)

    return descend


@pytest.fixture(scope="session")
def found(find):
    """What the short descent finds."""
    return find()


def test_found_images_are_8_bit_images(found):
    assert found.images.shape == (4, 28, 28, 1)
    assert found.images.dtype == np.float32
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert only_multiples(found.images)


def test_fits_are_those_of_the_images_found(homework, linear_model, found):
    logits = linear_model.predict(found.images, verbose=0)
    expected = homework.divergence(found.targets, logits).numpy()
    np.testing.assert_allclose(found.fits, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "share", "settling"),
    [(8, 0.5, 4), (8, 1.0, 8), (8, 1e-6, 1), (1, 0.3, 1)],
)
def test_the_best_of_the_settling_steps_is_kept(find, steps, share, settling):
    result = find(steps=steps, settling_share=share)
    assert result.history.shape == (steps, 4)
    np.testing.assert_array_equal(result.fits, result.history[-settling:].min(axis=0))


@pytest.mark.parametrize(
    ("steps", "keep_every", "kept"), [(8, 3, 3), (8, 4, 2), (1, 5, 1)]
)
def test_the_path_leads_from_the_start_to_the_best(find, steps, keep_every, kept):
    result = find(steps=steps, keep_every=keep_every)
    assert result.path.shape == (kept + 1, 4, 28, 28, 1)
    np.testing.assert_array_equal(result.path[0], noise_images(4))
    np.testing.assert_array_equal(result.path[-1], result.images)
    assert result.path.min() >= 0
    assert result.path.max() <= 1


def test_one_step_keeps_the_rounded_start(find):
    result = find(steps=1)
    np.testing.assert_allclose(result.images, noise_images(4), atol=0.5 / 255 + 1e-6)
    assert only_multiples(result.images)


def test_descent_changes_neither_model_nor_arguments(
    homework, linear_model, find, settings
):
    before = linear_model.get_weights()
    targets, starts = homework.one_hot([1, 2, 3, 4]), noise_images(4)
    copies = targets.copy(), starts.copy()
    result = find(targets=targets, initial_images=starts)
    for old, new in zip(before, linear_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(targets, copies[0])
    np.testing.assert_array_equal(starts, copies[1])
    np.testing.assert_array_equal(result.targets, targets)


def test_same_seed_same_result_bit_for_bit(find, found):
    for first, second in zip(found, find(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_another_seed_gives_another_result(find, found):
    assert not np.array_equal(found.images, find(seed=2).images)


def test_without_disturbance_the_seed_does_not_matter(find):
    calm = dict(noise=0.0, shift=0)
    first, second = find(**calm), find(**calm, seed=2)
    np.testing.assert_array_equal(first.images, second.images)


def test_descent_improves_the_fit(find):
    """Of the fit alone, which is convex here: the step is small."""
    calm = dict(noise=0.0, shift=0, weights=(0.0, 0.0, 0.0, 0.0), rate=0.01)
    result = find(**calm, settling_share=1.0, steps=30)
    assert (result.fits < result.history[0]).all()
    assert (np.diff(result.history[:10], axis=0) < 0).all()


def test_regularizers_pull_the_image_to_real_digits(homework, find, typical):
    calm = dict(noise=0.0, shift=0, steps=30, settling_share=1 / 30)
    free = find(**calm, weights=(0.0, 0.0, 0.0, 0.0))
    held = find(**calm, weights=(5.0, 5.0, 5.0, 0.0))
    free_ink, held_ink = (
        homework.statistics(result.images).numpy()[:, 0] for result in (free, held)
    )
    wanted = held.targets @ typical[0][:, 0]
    assert (np.abs(held_ink - wanted) < np.abs(free_ink - wanted)).all()


def test_images_do_not_depend_on_their_neighbours(find):
    calm = dict(noise=0.0, shift=0)
    whole = find(**calm)
    swapped = find(
        **calm,
        targets=whole.targets[::-1].copy(),
        initial_images=noise_images(4)[::-1].copy(),
    )
    np.testing.assert_allclose(swapped.fits[::-1], whole.fits, rtol=1e-3, atol=1e-5)


def test_lists_are_taken_as_targets(homework, find, found):
    result = find(targets=found.targets.tolist())
    np.testing.assert_array_equal(result.images, found.images)


def changed(array: np.ndarray, value: float) -> np.ndarray:
    """Return a copy with one value changed."""
    array = array.copy()
    array.flat[1] = value
    return array


EYE = np.eye(10, dtype=np.float32)[:4]
GRAY = np.full((4, 28, 28, 1), 0.5, np.float32)
SUMS = "expected finite targets: n 10 sums to 1 in"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": changed(EYE, 0.5)}, rf"{SUMS}.*from 0.0 to 1.0"),
        ({"targets": EYE / 2}, rf"{SUMS}.*from 0.0 to 0.5"),
        ({"targets": changed(EYE, -0.5)}, rf"{SUMS}.*from -0.5 to 1.0"),
        ({"targets": changed(EYE, np.nan)}, rf"{SUMS}.*from nan to nan"),
        ({"targets": EYE[0]}, rf"{SUMS}.*got shape \(10,\)"),
        ({"targets": EYE[:, :9]}, rf"{SUMS}.*got shape \(4, 9\)"),
        ({"targets": EYE[:0]}, rf"{SUMS}.*got array\(\[\], shape=\(0, 10\)"),
        ({"targets": "2"}, rf"{SUMS}.*got '2'"),
        (
            {"targets": EYE[:3]},
            r"initial_images: 3 28 28 1 in .*got shape \(4, 28, 28, 1\)",
        ),
        (
            {"initial_images": GRAY[..., 0]},
            r"initial_images: 4 28 28 1 in .*got shape \(4, 28, 28\)",
        ),
        ({"initial_images": changed(GRAY, 1.25)}, r"in \[0, 1\], .*from 0.5 to 1.25"),
        ({"initial_images": changed(GRAY, -0.25)}, r"in \[0, 1\], .*from -0.25 to 0.5"),
        ({"initial_images": changed(GRAY, np.nan)}, r"in \[0, 1\], .*from nan to nan"),
        ({"initial_images": GRAY * 255}, r"in \[0, 1\], .*from 127.5 to 127.5"),
        ({"steps": 0}, r"steps: whole in \[1, 1000000\], got 0"),
        ({"steps": -5}, r"steps: whole in \[1, 1000000\], got -5"),
        ({"steps": np.nan}, r"steps: whole in \[1, 1000000\], got nan"),
        ({"steps": 2.5}, r"steps: whole in \[1, 1000000\], got 2.5"),
        ({"keep_every": 0}, r"keep_every: whole in \[1, 1000000\], got 0"),
        ({"rate": 0.0}, r"rate: in \[1e-9, 1000000\], got 0.0"),
        ({"rate": -0.1}, r"rate: in \[1e-9, 1000000\], got -0.1"),
        ({"rate": np.nan}, r"rate: in \[1e-9, 1000000\], got nan"),
        ({"rate": np.inf}, r"rate: in \[1e-9, 1000000\], got inf"),
        ({"noise": -0.1}, r"noise: in \[0, 1000\], got -0.1"),
        ({"noise": np.inf}, r"noise: in \[0, 1000\], got inf"),
        ({"shift": -1}, r"shift: whole in \[0, 28\], got -1"),
        ({"shift": 29}, r"shift: whole in \[0, 28\], got 29"),
        ({"shift": 0.5}, r"shift: whole in \[0, 28\], got 0.5"),
        ({"settling_share": 0.0}, r"settling_share: in \[1e-9, 1\], got 0.0"),
        ({"settling_share": 1.5}, r"settling_share: in \[1e-9, 1\], got 1.5"),
        ({"momentum": 1.0}, r"momentum: in \[0, 0.999\], got 1.0"),
        ({"momentum": -0.1}, r"momentum: in \[0, 0.999\], got -0.1"),
        ({"seed": -1}, r"seed: whole in \[0, 2147483647\], got -1"),
        ({"typical": np.ones((10, 3))}, r"typical: 2 10 3 in .*got shape \(10, 3\)"),
        ({"weights": (1, 1, 1)}, r"weights: 4 in .*got shape \(3,\)"),
        ({"weights": (1, 1, np.nan, 1)}, r"weights: 4 in .*from nan to nan"),
    ],
)
def test_bad_input_is_refused(find, change, message):
    with pytest.raises(ValueError, match=message):
        find(**change)


@pytest.mark.parametrize(
    "change",
    [{"momentum": 0.0}, {"shift": 28}, {"noise": 0.0}, {"settling_share": 1.0}],
)
def test_settings_at_the_end_of_their_range_are_taken(find, change):
    result = find(**change)
    assert np.isfinite(result.fits).all()
    assert np.isfinite(result.images).all()


# -------------------------------------------------------------------- the starts


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "black", "gray"])
def test_a_start_depends_on_its_own_seed_alone(homework, kind):
    batch = homework.make_starts(kind, np.arange(5, 9))
    assert batch.shape == (4, 28, 28, 1)
    assert batch.dtype == np.float32
    alone = [homework.make_starts(kind, [seed])[0] for seed in (5, 6, 7, 8)]
    np.testing.assert_array_equal(batch, alone)


def test_starts_are_what_they_are_called(homework):
    seeds = np.arange(30)
    uniform, gaussian, black, gray = (
        homework.make_starts(kind, seeds)
        for kind in ("uniform", "gaussian", "black", "gray")
    )
    shares = np.histogram(uniform, bins=4, range=(0, 1))[0] / uniform.size
    assert shares == pytest.approx([0.25] * 4, abs=0.01)
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    # within one deviation of the mean lie 68.3 %
    assert np.mean(np.abs(gaussian - 0.5) < 0.25) == pytest.approx(0.683, abs=0.01)
    assert gaussian.min() == 0
    assert gaussian.max() == 1
    assert (black == 0).all()
    assert (gray == 0.5).all()
    for random in (uniform, gaussian):
        assert np.abs(random[0] - random[1]).max() > 0.5


def test_an_unknown_start_is_refused(homework):
    message = "expected a start of uniform, gaussian, black, gray, got 'white'"
    with pytest.raises(ValueError, match=message):
        homework.make_starts("white", [1])


def test_noise_on_images_is_of_its_level_and_seed(homework):
    gray = np.full((3, 28, 28, 1), 0.5, np.float32)
    found = homework.add_noise(gray, 0.1, [1, 2, 3])
    assert found.dtype == np.float32
    assert found.std() == pytest.approx(0.1, rel=0.1)
    alone = homework.add_noise(gray[:1], 0.1, [2])
    np.testing.assert_array_equal(found[1:2], alone)
    assert np.abs(found[0] - found[1]).max() > 0.1
    np.testing.assert_array_equal(gray, 0.5)


def test_noise_on_images_stays_between_0_and_1(homework, mnist):
    images = homework.to_images(mnist["x_test"][:3])
    found = homework.add_noise(images, 0.6, [1, 2, 3])
    assert found.min() == 0
    assert found.max() == 1
    np.testing.assert_array_equal(homework.add_noise(images, 0.0, [1, 2, 3]), images)


# ------------------------------------------------------------------- the results


def made_result(homework, count: int = 2, **changes):
    """Return a result that was made by hand: one pixel moves from 0 to 1."""
    images = np.zeros((count, 28, 28, 1), np.float32)
    images[:, 14, 14] = 1
    parts = dict(
        targets=homework.one_hot(np.arange(count)),
        images=images,
        fits=np.full(count, 5e-4, np.float32),
        history=np.full((4, count), 0.01, np.float32),
        path=np.stack([np.zeros_like(images), images]),
    )
    return homework.Optimization(**(parts | changes))


def test_summarize_runs_gives_a_row_for_each_kind(homework, linear_model):
    history = np.array([[0.05, 2.0, 2.0], [1.0, 0.1, 1.0], [0.05, 0.2, 1.0]])
    fits = np.array([2e-4, 1e-3, 5e-2])
    made = made_result(homework, 3, fits=fits, history=history)
    good = made_result(homework, 3)
    rows = homework.summarize_runs(linear_model, {"a": made, "b": good}, goal=1e-3)
    norms = homework.gradient_norms(linear_model, made.targets, made.path[0])
    gradient = f"{np.median(norms):.1e}"
    share = homework.describe_share(np.array([True, True, False]))
    assert rows[0] == ["a", 3, share, "1e-03", "5e-02", "1", gradient, "1.0"]
    all_within = homework.describe_share(np.ones(3))
    assert rows[1] == ["b", 3, all_within, "5e-04", "5e-04", "0", gradient, "1.0"]
    assert len(rows[0]) == len(homework.RUN_HEADER)


@pytest.mark.parametrize("count", [1, 3])
def test_plot_fits_draws_a_line_for_each_kind(homework, displayed, count):
    history = np.array([[2.0, 4.0, 6.0], [0.0, 1.0, 5.0]])
    figure = homework.plot_fits(
        {f"kind {i}": history for i in range(count)}, 1e-3, "Fits"
    )
    homework.show(figure, "fits")
    (axis,) = figure.axes
    named = {line.get_label(): line for line in axis.lines}
    median = named["kind 0"]
    assert median.get_ydata().tolist() == [4, 1]
    assert set(named) >= {f"kind {i}" for i in range(count)} | {"goal, 0.001"}
    # a single kind shows its three runs too; the last line is the goal
    assert len(axis.lines) == (5 if count == 1 else count + 1)
    assert axis.get_title() == "Fits"
    assert axis.get_yscale() == "log"


def test_naive_descent_lowers_the_squared_error(homework, linear_model):
    targets, starts = homework.one_hot([1, 2, 3]), noise_images(3)
    result = homework.naive_descent(linear_model, targets, starts, 5, rate=1.0)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert only_multiples(result.images)
    np.testing.assert_array_equal(result.path, np.stack([starts, result.images]))
    logits = [linear_model.predict(x, verbose=0) for x in (starts, result.images)]
    fits = [homework.divergence(targets, x).numpy() for x in logits]
    assert result.history.shape == (5, 3)
    np.testing.assert_allclose(result.history[0], fits[0], rtol=1e-4)
    np.testing.assert_allclose(result.fits, fits[1], rtol=1e-4)
    errors = [homework.squared_error(targets, x).numpy() for x in logits]
    assert (errors[1] < errors[0]).all()


def test_naive_descent_is_the_plain_step(homework, linear_model, tf):
    targets, starts = homework.one_hot([1]), GRAY[:1]
    with tf.GradientTape() as tape:
        tape.watch(images := tf.constant(starts))
        loss = homework.squared_error(targets, linear_model(images))
    expected = starts - 2 * tape.gradient(loss, images).numpy()
    result = homework.naive_descent(linear_model, targets, starts, 1, rate=2.0)
    np.testing.assert_allclose(result.images, expected.clip(0, 1), atol=0.51 / 255)


@pytest.fixture
def runs(homework):
    """Two experiments, of three images and of two."""
    return {
        ("random", "uniform"): made_result(homework, 3),
        ("noisy_digit", "digit+noise 0.4"): made_result(homework, 2),
    }


def test_results_are_stored_in_the_described_format(
    homework, linear_model, runs, tmp_path
):
    path = tmp_path / "results" / "optimized_images.npz"
    homework.save_results(path, linear_model, runs, seed=2025)
    with np.load(path, allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    shapes = {
        name: (x.shape, x.dtype.kind + str(x.itemsize)) for name, x in stored.items()
    }
    assert shapes.pop("experiment")[0] == (5,)
    assert shapes.pop("init")[0] == (5,)
    assert shapes == {
        "images": ((5, 28, 28), "u1"),
        "targets": ((5, 10), "f4"),
        "probabilities": ((5, 10), "f4"),
        "seed": ((5,), "i8"),
    }
    assert stored["experiment"].tolist() == ["random"] * 3 + ["noisy_digit"] * 2
    assert stored["init"].tolist() == ["uniform"] * 3 + ["digit+noise 0.4"] * 2
    assert stored["seed"].tolist() == [2025, 2026, 2027, 2025, 2026]
    assert stored["targets"].argmax(axis=1).tolist() == [0, 1, 2, 0, 1]
    images = homework.to_images(stored["images"])
    np.testing.assert_array_equal(images[0], runs["random", "uniform"].images[0])
    np.testing.assert_allclose(
        stored["probabilities"], homework.predict(linear_model, images), rtol=1e-5
    )
    assert list(path.parent.iterdir()) == [path]


def test_every_gray_value_is_stored_exactly(homework, linear_model, tmp_path):
    path, gray = tmp_path / "images.npz", np.arange(784, dtype=np.uint8)
    images = homework.to_images(gray.reshape(1, 28, 28))
    images = np.nextafter(images, np.float32(0))  # as near as rounding brings it
    result = made_result(homework, 1, images=images)
    homework.save_results(path, linear_model, {("a", "b"): result}, seed=0)
    with np.load(path) as file:
        np.testing.assert_array_equal(file["images"].ravel(), gray)


def write_half(path, **arrays):
    Path(path).write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse(*arguments):
    raise PermissionError("the file is open in another program")


@pytest.mark.parametrize("part", ["write", "rename"])
def test_results_that_cannot_be_stored_leave_the_old_ones(
    homework, linear_model, runs, tmp_path, monkeypatch, part
):
    path = tmp_path / "optimized_images.npz"
    path.write_bytes(b"old results")
    if part == "write":
        monkeypatch.setattr(homework.np, "savez_compressed", write_half)
    else:
        monkeypatch.setattr(homework.os, "replace", refuse)
    with pytest.raises(OSError, match=r"No space|open in another"):
        homework.save_results(path, linear_model, runs, seed=0)
    assert path.read_bytes() == b"old results"
    assert list(tmp_path.iterdir()) == [path]


# --------------------------------------------------------- what is shown of the runs


def test_pick_runs_takes_the_best_of_each_digit_and_the_first(homework):
    wanted = np.repeat(np.arange(10), 3)
    fits = np.tile([0.3, 0.1, 0.2], 10)
    picked = homework.pick_runs(fits, wanted, 2)
    assert picked.shape == (10, 3)
    assert picked[0].tolist() == [1, 0, 1]
    assert picked[9].tolist() == [28, 27, 28]


def test_pick_runs_is_content_with_fewer_runs(homework):
    picked = homework.pick_runs(np.zeros(10), np.arange(10), 5)
    assert picked.tolist() == [[digit, digit] for digit in range(10)]


def test_an_answer_is_described_by_its_probabilities(homework):
    assert homework.describe_answer(np.array([0.5, 0.49951, 0])) == "0.500 0.500 0.000"


def test_summarize_soft_counts_what_is_near_and_shows_the_best(homework, monkeypatch):
    answers = np.zeros((3, 10), np.float32)
    answers[:, 2], answers[:, 3] = [0.5, 0.508, 0.6], [0.5, 0.492, 0.4]
    monkeypatch.setattr(homework, "predict", lambda *_: answers)
    found = homework.Optimization(
        targets=homework.half_way(np.array([(2, 3)] * 3)),
        images=np.zeros((3, 28, 28, 1)),
        fits=np.array([0.2, 0.1, 0.3]),
        history=np.zeros((1, 3)),
        path=np.zeros((1, 3, 28, 28, 1)),
    )
    (row,) = homework.summarize_soft(None, {"noise": found}, tolerance=0.01)
    share = homework.describe_share(np.array([True, True, False]), 0)
    best = "0.000 0.000 0.508 0.492 " + " ".join(["0.000"] * 6)
    assert row == ["noise", 3, share, "1.0e-01", best]
    assert len(row) == len(homework.SOFT_HEADER)
