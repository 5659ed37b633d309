"""Q3 of the second assignment: dense networks, Table 1, gradients and the search."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from conftest import ROOT
from notebooks import COMPANION, import_functions
from scipy.special import expit

TINY = dict(VALIDATION_IMAGES=500, SEARCH_EPOCHS=3)
ACTIVATIONS = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "sigmoid": expit}


@pytest.fixture(scope="module")
def companion():
    """The functions, parameters and derived values of the notebook, as a module."""
    return import_functions(COMPANION, TINY, name="companion_q3")


def make_data(count):
    """Return images of noise (count, 28, 28, 1) and labels (count,) of all kinds."""
    random = np.random.default_rng(0)
    images = random.random((count, 28, 28, 1), dtype="float32")
    return images, np.arange(count) % 10


# ---------------------------------------------------------------------------- data


def test_mnist_is_read_from_the_file_and_checked(companion, tmp_path, monkeypatch):
    good = ROOT / "data" / "mnist.npz"
    monkeypatch.setattr(companion, "MNIST_FILES", (tmp_path / "none.npz", good))
    digits, labels, test_digits, test_labels = companion.load_mnist()
    assert (digits.shape, test_digits.shape) == (
        (60_000, 28, 28, 1),
        (10_000, 28, 28, 1),
    )
    assert (digits.dtype, digits.max()) == (np.float32, 1)
    assert (len(labels), len(test_labels)) == (60_000, 10_000)
    with np.load(good) as file:
        arrays = dict(file)
    arrays["y_test"] = arrays["y_test"][::-1]
    changed = tmp_path / "changed.npz"
    np.savez(changed, **arrays)
    monkeypatch.setattr(companion, "MNIST_FILES", (changed,))
    with pytest.raises(ValueError, match="holds something else: delete it"):
        companion.load_mnist()
    changed.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"could not read .*changed\.npz"):
        companion.load_mnist()
    assert changed.read_bytes() == b"no archive"


def test_straightened_digits_are_centered_and_upright(companion):
    images = np.zeros((2, 28, 28, 1), np.float32)
    for row in range(6, 22):  # a bar that leans by half a column a row, off the center
        images[0, row, 6 + row // 2 : 9 + row // 2] = 1
    found = companion.straighten(images)
    assert found.shape == images.shape
    np.testing.assert_array_equal(found[1], 0)
    ink = found[0, ..., 0] / found[0].sum()
    row, column = np.indices((28, 28)) - 13.5
    assert (ink * row).sum() == pytest.approx(0, abs=0.1)
    assert (ink * column).sum() == pytest.approx(0, abs=0.1)
    assert (ink * row * column).sum() == pytest.approx(0, abs=0.5)
    before = images[0, ..., 0] / images[0].sum()
    assert abs((before * row * (column + 13.5)).sum()) > 5


def test_distortion_follows_the_seed_and_stays_small(companion):
    images = np.zeros((4, 28, 28, 1), np.float32)
    images[:, 8:20, 12:16] = 1
    found = []
    for seed in (1, 1, 2):
        companion.keras.utils.set_random_seed(seed)
        found.append(np.array(companion.distort(images)))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0.1
    assert 0 <= found[0].min() < found[0].max() <= 1 + 1e-6
    assert len({image.tobytes() for image in found[0]}) == 4
    ink = found[0].sum(axis=(1, 2, 3)) / 48
    assert ((ink > 0.7) & (ink < 1.4)).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_distortion_at_its_limits_is_what_its_description_says(
    companion, monkeypatch, sign
):
    """One amount at its limit and the others at zero: degrees, shear, scale, pixels."""
    keras, tf, maps = companion.keras, companion.tf, []
    monkeypatch.setattr(
        keras.ops.image, "affine_transform", lambda x, found: maps.append(found)
    )

    def draw(shape, low, high):
        return sign * high * tf.eye(8)

    monkeypatch.setattr(tf.random, "uniform", draw)
    companion.distort(tf.zeros((8, 28, 28, 1)))
    turn, shear, tall, wide, right, down, *tilts = np.array(maps[0])
    assert np.rad2deg(np.arctan2(turn[1], turn[0])) == pytest.approx(sign * 10.5)
    assert shear[3] == pytest.approx(sign * 0.14)
    assert [tall[4], wide[0]] == pytest.approx([1.11**sign] * 2, rel=0.002)
    assert [right[2], down[5]] == pytest.approx([sign * 1.4] * 2)
    assert [tilts[0][6], tilts[1][7]] == pytest.approx([sign * 1.4e-3] * 2)


# ------------------------------------------------------------------------ networks


def test_each_of_several_networks_is_a_plain_one(companion):
    designs = [
        companion.Design((8, 6), "relu"),
        companion.Design((4,), "tanh"),
        companion.Design((4,), "sigmoid"),
    ]
    networks = companion.build_networks(designs, (0.25, 0.5))
    images, _ = make_data(5)
    outputs = networks(images).numpy()
    assert outputs.shape == (5, 3, 10)
    dense = [layer for layer in networks.layers if "dense" in layer.name]
    dense.sort(key=lambda layer: (len(layer.name), layer.name))  # as they were made
    dense = [layer.get_weights() for layer in dense]
    for number, design in enumerate(designs):
        x = (images.reshape(5, -1) - 0.25) / 0.5
        for units in design.units:
            kernel, bias = dense.pop(0)
            assert kernel.shape == (x.shape[1], units)
            x = ACTIVATIONS[design.activation](x @ kernel + bias)
        kernel, bias = dense.pop(0)
        np.testing.assert_allclose(
            outputs[:, number], x @ kernel + bias, rtol=1e-4, atol=1e-5
        )
    assert not dense


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("draw", [1.0, 4.0])
def test_hidden_layers_start_from_a_multiple_of_keras_s_default(
    companion, activation, draw
):
    """Glorot and Bengio (2010): uniform up to √(6 / (inputs + outputs))."""
    design = companion.Design((64,), activation, draw)
    hidden, output = (
        layer.kernel
        for layer in companion.build_networks([design], (0.0, 1.0)).layers
        if "dense" in layer.name
    )
    for kernel, ends, times in ((hidden, 784 + 64, draw), (output, 64 + 10, 1)):
        limit = times * np.sqrt(6 / ends)
        assert np.abs(kernel).max() == pytest.approx(limit, rel=0.02)
        assert np.abs(kernel).max() <= limit * (1 + 1e-6)
        assert np.std(kernel) == pytest.approx(limit / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize(("kind", "extra"), [("none", 0), ("batch", 2), ("layer", 2)])
def test_normalization_adds_a_scale_and_a_shift_a_unit(companion, kind, extra):
    design = companion.Design((16,), normalization=kind, dropout=0.5)
    networks = companion.build_networks([design], (0.0, 1.0))
    trained = sum(np.prod(weight.shape) for weight in networks.trainable_weights)
    assert trained == 784 * 16 + 16 + 16 * 10 + 10 + extra * 16


def test_a_network_learns_the_same_alone_and_beside_others(companion):
    """The sum of the losses gives each network its own gradient and no other."""
    data = make_data(100)
    designs = [
        companion.Design((8,), name, batch=50, epochs=2) for name in ("tanh", "relu")
    ]
    both, alone, again, other = (
        companion.train(x, data, seed).predict(data[0], verbose=0)
        for x, seed in ((designs, 0), (designs[:1], 0), (designs, 0), (designs, 1))
    )
    np.testing.assert_array_equal(both, again)
    np.testing.assert_allclose(both[:, :1], alone, rtol=1e-3, atol=1e-3)
    assert np.abs(both - other).max() > 0.1


@pytest.mark.parametrize("cosine", [True, False])
def test_the_rate_falls_to_zero_or_stays(companion, cosine):
    design = companion.Design((4,), rate=0.01, cosine=cosine, batch=30, epochs=2)
    networks = companion.train([design], make_data(100))
    assert int(networks.optimizer.iterations) == 8
    expected = 0 if cosine else 0.01
    assert float(networks.optimizer.learning_rate) == pytest.approx(expected, abs=1e-6)


def test_pixels_are_standardized_and_distorted_if_the_design_says_so(
    companion, monkeypatch
):
    scales, distorted = [], []
    build = companion.build_networks
    monkeypatch.setattr(
        companion,
        "build_networks",
        lambda x, scale: scales.append(scale) or build(x, scale),
    )
    monkeypatch.setattr(companion, "distort", lambda x: distorted.append(x) or x)
    images, labels = make_data(50)
    plain = companion.Design((4,), standardized=False, epochs=1)
    companion.train([plain], (images, labels))
    assert not distorted
    companion.train(
        [plain._replace(standardized=True, distorted=True)], (images, labels)
    )
    assert distorted
    expected = [(0, 1), (images.mean(), images.std())]
    np.testing.assert_allclose(scales, expected, rtol=1e-5)


def test_scores_are_those_of_each_network(companion):
    class Answers:
        """Two networks, the first of which always says 0 and the second 3."""

        def predict(self, images, **options):
            logits = np.zeros((len(images), 2, 10))
            logits[:, 0, 0] = logits[:, 1, 3] = 1
            return logits

    data = np.zeros((4, 28, 28, 1)), np.array([0, 3, 3, 3])
    assert companion.score(Answers(), data).tolist() == [25, 75]


def test_cross_validation_leaves_each_image_out_once(companion, monkeypatch):
    trained, scored = [], []
    monkeypatch.setattr(companion, "train", lambda designs, x, seed: trained.append(x))
    monkeypatch.setattr(
        companion, "score", lambda _, x: scored.append(x) or np.array([len(scored), 7])
    )
    images = np.arange(300)
    found = companion.cross_validate(["a", "b"], (images, images % 10), folds=5)
    assert found.tolist() == [3, 7]  # the means of 1 to 5 and of 7
    for (kept, labels), (left_out, other_labels) in zip(trained, scored, strict=True):
        assert sorted([*kept, *left_out]) == images.tolist()
        np.testing.assert_array_equal(labels, kept % 10)
        np.testing.assert_array_equal(other_labels, left_out % 10)
        assert np.bincount(other_labels).tolist() == [6] * 10
    assert sorted(np.concatenate([x for x, _ in scored])) == images.tolist()


# -------------------------------------------------------------------------- search


def test_a_design_is_what_a_trial_has_drawn(companion):
    drawn = dict(hidden_layers=2, units=512, activation="tanh", normalization="layer")
    drawn |= dict(dropout=0.3, rate=0.00123456)
    design = companion.suggest_design(optuna.trial.FixedTrial(drawn))
    assert design == companion.Design(
        (512, 512), "tanh", 1.0, "layer", 0.3, rate=0.00123, epochs=3
    )
