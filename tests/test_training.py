"""Part 1: the network, what it learns from, its training and its report."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tf(homework):
    """TensorFlow."""
    return homework.tf


@pytest.fixture(scope="session")
def digits(homework, mnist):
    """A few hundred real digits and their labels."""
    return homework.to_images(mnist["x_test"][:400]), mnist["y_test"][:400]


# ------------------------------------------------------------------- the network


@pytest.fixture(scope="module")
def network(homework):
    """The network of the homework, untrained."""
    return homework.build_network(dropout=0.3, seed=5)


def test_network_maps_images_to_logits(homework, network, digits):
    assert network.input_shape == (None, 28, 28, 1)
    logits = network.predict(digits[0][:3], verbose=0)
    assert logits.shape == (3, 10)
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-3, "probabilities, not logits"
    assert network.layers[-1].activation is homework.keras.activations.linear


def test_network_has_eight_convolutions_and_three_dense_layers(homework, network):
    kinds = [type(layer).__name__ for layer in network.layers if layer.weights]
    assert kinds == ["Conv2D"] * 8 + ["Dense"] * 3


def test_network_drops_the_given_share(homework):
    model = homework.build_network(dropout=0.45, seed=5)
    rates = [layer.rate for layer in model.layers if hasattr(layer, "rate")]
    assert rates == [0.45, 0.45]


def test_initial_weights_follow_from_the_seed(homework, network):
    again = homework.build_network(dropout=0.3, seed=5).get_weights()
    other = homework.build_network(dropout=0.3, seed=6).get_weights()
    for first, second, third in zip(network.get_weights(), again, other, strict=True):
        np.testing.assert_array_equal(first, second)
        assert first.ndim == 1 or not np.array_equal(first, third)


def test_counts_of_the_network_equal_those_by_hand(homework, network):
    assert homework.count_network(network) == {
        "learned layers": "11",
        "parameters": "608,138",
        "share of parameters in dense layers": "69%",
        "multiply-accumulates": "11,406,208",
        "the same per input pixel": "14,549",
    }


def test_counts_of_alexnet_equal_the_published(homework):
    counts = homework.count_network(homework.build_alexnet())
    assert counts["learned layers"] == "8"
    assert counts["parameters"] == "60,965,224"
    assert counts["share of parameters in dense layers"] == "96%"
    assert counts["multiply-accumulates"] == "724,406,816"
    assert counts["the same per input pixel"] == "14,437"


# -------------------------------------------------------------------- distortion


def grid(rows: float = 0.0, columns: float = 0.0, count: int = 1) -> np.ndarray:
    """Return the coordinates of all pixels, moved by rows and columns."""
    places = np.stack(np.meshgrid(np.arange(28), np.arange(28), indexing="ij"), -1)
    places = places.reshape(1, -1, 2) + np.array([rows, columns])
    return np.repeat(places, count, axis=0).astype(np.float32)


def test_sampling_at_the_pixels_gives_the_images(homework, digits):
    images = digits[0][:4]
    found = homework.sample_bilinear(images, grid(count=4)).numpy()
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(("rows", "columns"), [(3, 0), (0, -2), (-1, 5)])
def test_sampling_beside_the_pixels_moves_the_images(homework, rows, columns):
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    found = homework.sample_bilinear(images, grid(rows, columns, 2)).numpy()
    wide = np.pad(images, [(0, 0), (6, 6), (6, 6), (0, 0)])
    moved = wide[:, 6 + rows : 34 + rows, 6 + columns : 34 + columns]
    # a thousandth of the last row and column reaches beyond the image
    np.testing.assert_allclose(found, moved, atol=1.1e-3)


def test_sampling_between_the_pixels_gives_their_mean(homework):
    images = np.random.default_rng(0).random((1, 28, 28, 1), np.float32)
    found = homework.sample_bilinear(images, grid(0.5, 0.5)).numpy()[0, :27, :27]
    corners = [images[0, r : r + 27, c : c + 27] for r in (0, 1) for c in (0, 1)]
    np.testing.assert_allclose(found, np.mean(corners, axis=0), atol=1e-6)
    down = homework.sample_bilinear(images, grid(0.25, 0)).numpy()[0, :27]
    expected = 0.75 * images[0, :27] + 0.25 * images[0, 1:]
    np.testing.assert_allclose(down, expected, atol=1e-6)


@pytest.mark.parametrize("far", [-28.5, -1000.0, 28.5, 1000.0])
def test_outside_of_the_images_all_is_black(homework, far):
    white = np.ones((1, 28, 28, 1), np.float32)
    found = homework.sample_bilinear(white, grid(far, 0)).numpy()
    np.testing.assert_allclose(found, 0, atol=1.1e-3)


def test_each_image_has_its_own_coordinates(homework, digits):
    images = digits[0][:2]
    places = np.concatenate([grid(), grid(2, 0)])
    found = homework.sample_bilinear(images, places).numpy()
    np.testing.assert_array_equal(found[0], images[0])
    np.testing.assert_allclose(found[1, :26], images[1, 2:], atol=1e-6)


def test_distortion_of_strength_0_changes_nothing(homework, digits):
    found = homework.distort(digits[0][:20], 0.0, (1, 2)).numpy()
    np.testing.assert_allclose(found, digits[0][:20], atol=1e-5)


def test_distortion_follows_from_the_seed(homework, digits):
    first, again, other = (
        homework.distort(digits[0][:5], 1.0, seed).numpy()
        for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=0.1)


def test_each_image_is_distorted_in_its_own_way(homework, digits):
    same = np.repeat(digits[0][:1], 6, axis=0)
    found = homework.distort(same, 1.0, (1, 2)).numpy()
    for index in range(5):
        assert np.abs(found[index] - found[index + 1]).max() > 0.1


def test_distorted_pixels_stay_between_0_and_1(homework, digits):
    white = np.ones((30, 28, 28, 1), np.float32)
    for images in (white, digits[0]):
        found = homework.distort(images, 1.0, (1, 2)).numpy()
        assert found.shape == images.shape
        assert found.min() >= 0
        assert found.max() <= 1 + 1e-6


def test_distortion_keeps_the_ink_in_its_place(homework):
    """At most 2 pixels of shift, and turning about the center does not move it."""
    dots = np.zeros((200, 28, 28, 1), np.float32)
    dots[:, 12:16, 12:16] = 1
    found = homework.distort(dots, 1.0, (1, 2)).numpy()[..., 0]
    line, ink = np.arange(28), found.sum(axis=(1, 2))
    center = [(found.sum(axis=a) @ line) / ink for a in (2, 1)]
    moved = np.abs(np.array(center) - 13.5)
    # the bend moves it too: by a pixel and more only at four deviations
    assert moved.max() < 4
    assert moved.max() > 1.5
    assert (ink > 0.6 * 16).all()
    assert (ink < 1.7 * 16).all()


# ------------------------------------------------------------- attacks and noise


def test_an_attack_has_the_asked_length_and_raises_the_loss(homework, tf, linear_model):
    """The loss of a linear model is convex: a step along its gradient raises it."""
    images = tf.constant(np.random.default_rng(0).uniform(0.3, 0.7, (8, 28, 28, 1)))
    images = tf.cast(images, tf.float32)
    targets = homework.one_hot(np.arange(8))
    lengths = np.linspace(0, 0.25, 8, dtype=np.float32).reshape(-1, 1, 1, 1)
    found = homework.attack(linear_model, images, targets, tf.constant(lengths))
    step = (found - images).numpy()
    norms = np.sqrt((step**2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(norms, lengths.ravel(), rtol=1e-4, atol=1e-6)
    before = homework.divergence(targets, linear_model(images)).numpy()
    after = homework.divergence(targets, linear_model(found)).numpy()
    assert (after[1:] > before[1:]).all()


def test_an_attack_stays_between_0_and_1(homework, tf, linear_model, digits):
    images, labels = digits[0][:8], digits[1][:8]
    lengths = tf.fill((8, 1, 1, 1), 20.0)
    targets = homework.one_hot(labels)
    found = homework.attack(linear_model, tf.constant(images), targets, lengths).numpy()
    assert found.min() == 0
    assert found.max() == 1
    assert np.abs(found - images).max() > 0.5


def test_an_attack_without_a_gradient_changes_nothing(homework, tf, linear_model):
    images = tf.constant(np.full((2, 28, 28, 1), 0.5, np.float32))
    own = tf.nn.softmax(linear_model(images))
    flat = homework.keras.models.clone_model(linear_model)
    flat.set_weights([np.zeros((784, 10)), np.zeros(10)])
    found = homework.attack(flat, images, own, tf.fill((2, 1, 1, 1), 2.0))
    np.testing.assert_array_equal(found.numpy(), images.numpy())


def test_mixtures_go_from_noise_to_the_digit_and_their_targets_follow(homework):
    count = 400
    targets = homework.one_hot(np.arange(count) % 10)
    black = np.zeros((count, 28, 28, 1), np.float32)
    mixed, goals = (x.numpy() for x in homework.mix_with_noise(black, targets, (1, 2)))
    assert goals.sum(axis=1) == pytest.approx(np.ones(count), abs=1e-5)
    certainty = (goals[targets == 1] - 0.1) / 0.9
    assert certainty.min() >= -1e-6
    # under a = 0.8 b of black and 1 - a of noise, the brightest pixel is near 1 - a
    partly = certainty < 1 - 1e-6
    brightest = mixed.max(axis=(1, 2, 3))
    expected = 1 - 0.8 * certainty[partly]
    assert (brightest[partly] <= expected + 1e-5).all()
    assert (brightest[partly] >= 0.97 * expected).all()
    assert (brightest[~partly] <= 0.2 + 1e-5).all()
    # the mean of min(a / 0.8, 1) over a is 0.6; its deviation here is 0.017
    assert certainty.mean() == pytest.approx(0.6, abs=0.08)


def test_mixtures_stay_between_0_and_1_and_follow_from_the_seed(homework, digits):
    targets = homework.one_hot(digits[1])
    first, again, other = (
        homework.mix_with_noise(digits[0], targets, seed)[0].numpy()
        for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=0.1)
    assert first.min() >= 0
    assert first.max() <= 1


# ------------------------------------------------------------------ the trainer


def test_a_batch_is_attacked_mixed_and_left_in_the_shares_said(
    homework, tf, linear_model, digits
):
    images, targets = digits[0][:24], homework.one_hot(digits[1][:24])
    ways = dict(distortion=0.0, attack_length=2.0)
    trainer = homework.RobustTrainer(linear_model, steps=10, seed=1, **ways)
    found, goals = trainer.prepare(images, tf.constant(targets), tf.constant(3))
    found, goals = found.numpy(), goals.numpy()
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(found[12:], images[12:], atol=1e-5)
    np.testing.assert_array_equal(goals[:9], targets[:9])
    np.testing.assert_array_equal(goals[12:], targets[12:])
    norms = np.sqrt(((found - images) ** 2).sum(axis=(1, 2, 3)))
    assert norms[:9].max() <= 2 + 1e-3
    assert norms[:9].max() > 0.1
    before, after = (
        homework.divergence(targets[:9], linear_model(x[:9])).numpy()
        for x in (images, found)
    )
    assert (after > before).mean() > 0.5
    assert norms[9:12].min() > 1
    assert np.abs(goals[9:12].sum(axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("step", "strength"), [(0, 1.0), (70, 1.0), (85, 0.65), (100, 0.3)]
)
def test_the_distortion_fades_at_the_end(
    homework, tf, linear_model, digits, step, strength
):
    images, targets = digits[0][:8], tf.constant(homework.one_hot(digits[1][:8]))
    ways = dict(distortion=1.0, attack_length=2.0)
    trainer = homework.RobustTrainer(linear_model, steps=100, seed=4, **ways)
    found, _ = trainer.prepare(images, targets, tf.constant(step))
    seed = tf.random.split(tf.constant([4, step]), 3)[0]
    expected = homework.distort(images, strength, seed)
    np.testing.assert_allclose(found[4:].numpy(), expected[4:].numpy(), atol=1e-3)


def test_every_step_draws_anew(homework, tf, linear_model, digits):
    images, targets = digits[0][:8], tf.constant(homework.one_hot(digits[1][:8]))
    ways = dict(distortion=1.0, attack_length=2.0)
    trainer = homework.RobustTrainer(linear_model, steps=100, seed=4, **ways)
    first, again, other = (
        trainer.prepare(images, targets, tf.constant(step))[0].numpy()
        for step in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=0.1)


OPTIONS = dict(
    epochs=1,
    batch_size=32,
    learning_rate=2e-3,
    weight_decay=0.05,
    seed=7,
    distortion=1.0,
    attack_length=2.0,
)


def part(digits: tuple, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels from first to last."""
    return digits[0][first:last], digits[1][first:last]


@pytest.fixture
def small_network(homework):
    """Return a maker of a small network that trains at once."""

    def make():
        keras = homework.keras
        keras.utils.set_random_seed(3)
        inputs = keras.Input(homework.IMAGE_SHAPE)
        x = keras.layers.Conv2D(4, 4, 4, activation="relu")(inputs)
        x = keras.layers.Dropout(0.1)(keras.layers.Flatten()(x))
        return keras.Model(inputs, keras.layers.Dense(10)(x))

    return make


@pytest.mark.usefixtures("displayed")
def test_training_changes_all_weights_and_returns_a_record(homework, digits):
    network = homework.build_network(dropout=0.3, seed=1)
    before = network.get_weights()
    watched = part(digits, 300, 350)
    record = homework.train(network, part(digits, 0, 70), watched, **OPTIONS)
    for old, new in zip(before, network.get_weights(), strict=True):
        assert np.isfinite(new).all()
        assert not np.array_equal(old, new)
    assert set(record) == {"history", "seconds"}
    assert record["seconds"] > 0
    names = {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert set(record["history"]) == names
    assert all(np.isfinite(record["history"][name]).all() for name in names)
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("left_over", [0, 1, 5, 7, 12])
@pytest.mark.usefixtures("displayed")
def test_the_last_batch_may_hold_any_number_of_images(
    homework, digits, small_network, left_over
):
    network, watched = small_network(), part(digits, 300, 310)
    before = network.get_weights()[0]
    record = homework.train(
        network, part(digits, 0, 32 + left_over), watched, **OPTIONS
    )
    assert np.isfinite(record["history"]["loss"]).all()
    assert np.isfinite(network.get_weights()[0]).all()
    assert not np.array_equal(network.get_weights()[0], before)


@pytest.mark.usefixtures("displayed")
def test_training_records_a_value_an_epoch_and_keeps_the_averaged_weights(
    homework, digits, small_network
):
    network, watched = small_network(), part(digits, 300, 400)
    options = OPTIONS | {"epochs": 3}
    history = homework.train(network, part(digits, 0, 300), watched, **options)[
        "history"
    ]
    assert {len(values) for values in history.values()} == {3}
    logits = network.predict(watched[0], verbose=0)
    targets = homework.one_hot(watched[1])
    loss = float(homework.divergence(targets, logits).numpy().mean())
    accuracy = np.mean(logits.argmax(axis=1) == watched[1])
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-4)
    assert history["val_accuracy"][-1] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.usefixtures("displayed")
def test_training_learns(homework, digits, small_network):
    options = OPTIONS | {"epochs": 8, "learning_rate": 0.05}
    record = homework.train(
        small_network(), part(digits, 0, 300), part(digits, 300, 400), **options
    )
    losses = record["history"]["val_loss"]
    assert losses[-1] < losses[0]


@pytest.mark.usefixtures("displayed")
def test_training_does_not_learn_from_the_validation_images(
    homework, digits, small_network
):
    networks = [small_network(), small_network()]
    for network, watched in zip(networks, ((300, 350), (350, 400)), strict=True):
        homework.train(network, part(digits, 0, 64), part(digits, *watched), **OPTIONS)
    for one, other in zip(*(n.get_weights() for n in networks), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("displayed")
def test_training_follows_from_the_seed(homework, digits, small_network):
    weights = []
    for seed in (7, 7, 8):
        network, options = small_network(), OPTIONS | {"seed": seed}
        homework.train(network, part(digits, 0, 70), part(digits, 300, 310), **options)
        weights.append(network.get_weights()[0])
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(weights[0], weights[2], atol=1e-5)


@pytest.mark.usefixtures("displayed")
def test_stopping_the_training_says_what_to_do(
    homework, digits, small_network, monkeypatch
):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(homework.RobustTrainer, "train_step", stop)
    with pytest.raises(KeyboardInterrupt, match="nothing was saved") as caught:
        homework.train(
            small_network(), part(digits, 0, 64), part(digits, 300, 310), **OPTIONS
        )
    assert "set RETRAIN = False to load that model" in str(caught.value)


def test_progress_is_one_line_that_ends_clean(homework, displayed, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(
        homework, "time", SimpleNamespace(perf_counter=lambda: clock.now)
    )
    progress = homework.Progress()
    progress.set_params({"epochs": 2, "steps": 5})
    progress.on_train_begin()
    for seconds in (101.0, 103.0, 104.0, 106.0):
        clock.now = seconds
        progress.on_train_batch_end(0)
    progress.on_epoch_end(0, {"val_accuracy": 0.98765})
    clock.now = 110.0
    progress.on_train_batch_end(4)
    progress.on_train_end()
    texts = [content["text/plain"] for content, _ in displayed]
    assert texts == [
        "training",
        "20%, about 12 s left",
        "40%, about 9 s left",
        "50%, about 10 s left, validation accuracy 98.77%",
        "2 epochs, 10 s, 0.5 steps a second, validation accuracy 98.77%",
    ]
    assert displayed[0][1]["display_id"] is True


# -------------------------------------------------------------------- the report


def test_score_gives_number_accuracy_and_loss(homework):
    logits = np.zeros((4, 10), np.float32)
    logits[[0, 1, 2], [3, 4, 5]] = 50
    logits[3, 0] = np.log(9)
    found = homework.score(logits, np.array([3, 4, 5, 1]))
    # the last answer is wrong: 1 of 9 + 9 shares
    assert found == ["4", "75.00% (30.06% to 95.44%)", f"{np.log(18) / 4:.4f}"]


def test_confusion_matrix_counts_truth_by_row(homework):
    truth = np.array([2, 2, 2, 7], np.uint8)
    matrix = homework.confusion_matrix(truth, np.array([2, 2, 3, 1]))
    assert matrix.shape == (10, 10)
    expected = {(2, 2): 2, (2, 3): 1, (7, 1): 1}
    assert {place: n for place, n in np.ndenumerate(matrix) if n} == expected


def test_show_confusions_displays_counts_precision_and_recall(homework, displayed):
    matrix = 8 * np.eye(10, dtype=int)
    matrix[4, 9] = 2
    homework.show_confusions(matrix)
    (figure, options), (table, _) = displayed
    counts = [int(text.get_text()) for text in figure.axes[0].texts]
    assert counts == matrix.ravel().tolist()
    assert options["metadata"]["image/png"]["alt"]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.data.splitlines()
    ]
    assert rows[2] == ["precision", *["100.00%"] * 9, "80.00%"]
    assert rows[3] == ["recall", *["100.00%"] * 4, "80.00%", *["100.00%"] * 5]


def test_reliability_sorts_answers_by_confidence(homework):
    probabilities = np.full((5, 10), 1e-3)
    sure = [0.95, 0.85, 0.3, 0.15, 1.0]
    probabilities[range(5), range(5)] = sure
    labels = np.array([0, 9, 2, 9, 4])
    confidence, hits, count = homework.reliability(probabilities, labels, bins=2)
    assert confidence == pytest.approx([0.225, 2.8 / 3])
    assert hits.tolist() == [1, 2]
    assert count.tolist() == [2, 3]
    confidence, hits, count = homework.reliability(probabilities, labels, bins=10)
    assert confidence == pytest.approx([0.15, 0.3, 0.85, 0.975])
    assert hits.tolist() == [0, 1, 0, 2]
    assert count.tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("epochs", [1, 3])
def test_plot_training_draws_curves_and_reliability(homework, displayed, epochs):
    history = {
        "loss": [0.4, 0.2, 0.1][:epochs],
        "accuracy": [0.9, 0.95, 0.99][:epochs],
        "val_loss": [0.3, 0.2, 0.1][:epochs],
        "val_accuracy": [0.92, 0.96, 0.98][:epochs],
    }
    curve = np.array([0.4, 0.9]), np.array([1, 9]), np.array([2, 10])
    figure = homework.plot_training(history, *curve)
    homework.show(figure, "curves")
    loss, errors, reliability = figure.axes
    assert [len(line.get_xdata()) for line in loss.lines] == [epochs, epochs]
    assert errors.lines[1].get_ydata() == pytest.approx([8, 4, 2][:epochs])
    assert errors.lines[1].get_label() == "validation"
    assert reliability.containers[0].lines[0].get_ydata().tolist() == [0.5, 0.9]
    assert all(axis.get_title() and axis.get_xlabel() for axis in figure.axes)
