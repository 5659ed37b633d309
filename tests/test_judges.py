"""The judges of Part 2, and what is measured with them."""

from __future__ import annotations

import numpy as np
import pytest


def points(*coordinates: tuple[float, float]) -> np.ndarray:
    """Return images that are black but for their first two pixels."""
    images = np.zeros((len(coordinates), 28, 28, 1), np.float32)
    images[:, 0, :2, 0] = coordinates
    return images


def answering(*shares: dict[int, float]):
    """Return a judge that gives these shares of the classes, whatever it is shown."""
    table = np.array([[row.get(digit, 0) for digit in range(10)] for row in shares])
    return lambda images: table[: len(images)]


# ------------------------------------------------------------------- neighbours


def test_nearest_finds_distances_and_indices(homework):
    references = points((0, 0), (0, 1), (1, 1), (0.5, 0))
    distances, indices = homework.nearest(points((0, 0.1), (1, 0)), references, 2)
    assert indices.tolist() == [[0, 3], [3, 0]] or indices.tolist() == [[0, 3], [3, 2]]
    expected = [[0.1, np.sqrt(0.26)], [0.5, 1]]
    np.testing.assert_allclose(distances, expected, atol=1e-3)


def test_nearest_agrees_with_plain_distances(homework):
    random = np.random.default_rng(0)
    images = random.random((1003, 28, 28, 1), np.float32)
    references = random.random((20, 28, 28, 1), np.float32)
    distances, indices = homework.nearest(images, references, 3)
    assert distances.shape == indices.shape == (1003, 3)
    for place in (0, 999, 1000, 1002):
        plain = np.sqrt(((references - images[place]) ** 2).sum(axis=(1, 2, 3)))
        np.testing.assert_array_equal(indices[place], np.argsort(plain)[:3])
        np.testing.assert_allclose(distances[place], np.sort(plain)[:3], rtol=1e-4)


def test_an_image_is_next_to_itself(homework, mnist):
    images = homework.to_images(mnist["x_test"][:50])
    distances, indices = homework.nearest(images[7:8], images, 1)
    assert indices.item() == 7
    assert distances.item() == pytest.approx(0, abs=0.02)


def test_five_neighbours_vote(homework):
    near = [(0.01 * i, 0.0) for i in range(5)]
    far = [(1.0, 0.01 * i) for i in range(5)]
    labels = np.array([3, 3, 3, 8, 8, 1, 1, 1, 1, 1], np.uint8)
    judge = homework.neighbour_judge(points(*near, *far), labels)
    shares = judge(points((0.02, 0), (1, 0.02)))
    assert shares.shape == (2, 10)
    assert shares[0, [3, 8]] == pytest.approx([0.6, 0.4])
    assert shares[1, 1] == 1
    assert shares.sum(axis=1) == pytest.approx([1, 1])


# -------------------------------------------------------------------- subspaces


# The functions take images of any size; small ones are fast.
PIXELS = 12 * 12


@pytest.fixture(scope="module")
def planes():
    """Ten classes that lie in planes: images, labels, centers and directions."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 30)
    centers = random.random((10, PIXELS))
    directions = np.array(
        [np.linalg.qr(random.normal(size=(PIXELS, 2)))[0] for _ in range(10)]
    )
    places = random.normal(size=(300, 2))
    images = centers[labels] + np.einsum("npk,nk->np", directions[labels], places)
    images = images.reshape(-1, 12, 12, 1).astype(np.float32)
    return images, labels, centers, directions


@pytest.fixture(scope="module")
def subspaces(homework, planes):
    """What is fitted to the planes."""
    return homework.fit_subspaces(planes[0], planes[1], rank=2)


def test_fitted_subspaces_are_the_planes(planes, subspaces):
    images, labels, _, directions = planes
    means, bases = subspaces
    assert means.shape == (10, PIXELS)
    assert bases.shape == (10, PIXELS, 2)
    own = images[labels == 4].reshape(-1, PIXELS)
    np.testing.assert_allclose(means[4], own.mean(axis=0), atol=1e-5)
    for basis, plane in zip(bases, directions, strict=True):
        np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-5)
        # both directions of the basis lie in the plane
        assert np.linalg.norm(plane.T @ basis) == pytest.approx(np.sqrt(2), abs=1e-3)


def test_reconstruction_errors_are_distances_to_the_planes(homework, planes, subspaces):
    images, labels, centers, directions = planes
    errors = homework.reconstruction_errors(images, *subspaces)
    assert errors.shape == (300, 10)
    np.testing.assert_allclose(errors[np.arange(300), labels], 0, atol=0.02)
    way = np.ones(PIXELS) - directions[0] @ (directions[0].T @ np.ones(PIXELS))
    off = centers[0] + 1.5 * way / np.linalg.norm(way)
    image = off.reshape(1, 12, 12, 1).astype(np.float32)
    error = homework.reconstruction_errors(image, *subspaces)[0, 0]
    assert error == pytest.approx(1.5, abs=0.01)


def test_subspace_judge_sees_the_nearest_class(homework, planes, subspaces):
    judge = homework.subspace_judge(*subspaces)
    shares = judge(planes[0])
    assert shares.sum(axis=1) == pytest.approx(np.ones(300), abs=1e-5)
    np.testing.assert_array_equal(shares.argmax(axis=1), planes[1])


def test_subspace_judge_gives_the_shares_of_gaussian_noise(homework):
    means = np.zeros((10, 784), np.float32)
    means[1:, 2] = 100
    means[1, 2] = 1
    bases = np.zeros((10, 784, 1), np.float32)
    bases[:, 0] = 1
    # 2 along the common direction counts nothing; class 0 is 0 away, class 1 is 1
    shares = homework.subspace_judge(means, bases)(points((2, 0)))
    likely = np.array([1, np.exp(-0.5)])
    assert shares[0, :2] == pytest.approx(likely / likely.sum(), rel=1e-4)


# ----------------------------------------------------------- dense, all together


@pytest.fixture(scope="module")
def bars():
    """Ten classes of one pattern each, a white bar: images and labels."""
    labels = np.tile(np.arange(10), 120)
    images = np.zeros((len(labels), 28, 28, 1), np.float32)
    for digit in range(10):
        images[labels == digit, 2 * digit + 4 : 2 * digit + 6] = 1
    return images, labels


def test_dense_judge_learns_separate_classes(homework, bars):
    judge = homework.dense_judge(*bars, seed=1)
    shares = judge(bars[0][:10])
    assert shares.shape == (10, 10)
    assert shares.sum(axis=1) == pytest.approx(np.ones(10), abs=1e-5)
    np.testing.assert_array_equal(shares.argmax(axis=1), np.arange(10))


def test_judges_are_three_and_answer_alike(homework, bars):
    images = bars[0]
    means, bases = images[:10].reshape(10, 784), np.zeros((10, 784, 1), np.float32)
    judges = homework.make_judges(images, bars[1], (means, bases), seed=1)
    assert list(judges) == ["dense", "neighbours", "subspaces"]
    seen = homework.transfer(judges, images[:20], bars[1][:20])
    assert seen.shape == (3, 20)
    assert seen.all()
    wrong = homework.transfer(judges, images[:20], (bars[1][:20] + 1) % 10)
    assert not wrong.any()


def test_transfer_compares_each_answer_with_what_is_wanted(homework):
    judges = {
        "first": answering({2: 1}, {3: 0.6, 2: 0.4}, {5: 1}),
        "second": answering({2: 1}, {2: 1}, {2: 1}),
    }
    found = homework.transfer(
        judges, points((0, 0), (0, 0), (0, 0)), np.array([2, 2, 5])
    )
    assert found.tolist() == [[True, False, True], [True, True, False]]
    assert (
        homework.transfer(judges, points((0, 0)), range(2, 3)).tolist() == [[True]] * 2
    )


def test_summarize_transfer_gives_a_row_for_each_kind(homework):
    seen = {
        "found": np.array([[True, True], [True, False]]),
        "noise": np.array([[False], [False]]),
    }
    rows = homework.summarize_transfer(seen, {"found": np.array([1e-4, 0.5])}, 1e-3)
    share = homework.describe_share(np.array([True, True, True, False]))
    nothing = homework.describe_share(np.array([False, False]))
    assert rows == [
        ["found", 2, "50.0%", share, "100.0%", "50.0%"],
        ["noise", 1, "", nothing, "0.0%", "0.0%"],
    ]


# ------------------------------------------------------------------ measurements


def test_percentiles_count_what_is_not_larger(homework):
    found = homework.percentiles(np.array([0, 1, 2.5, 3, 9]), np.array([3, 1, 2, 3]))
    assert found.tolist() == [0, 25, 50, 100, 100]


def test_percentiles_agree_with_numpy(homework):
    random = np.random.default_rng(0)
    values, references = random.normal(size=50), random.normal(size=1000)
    found = homework.percentiles(values, references)
    expected = [100 * np.mean(references <= value) for value in values]
    assert found == pytest.approx(expected)
    at_95 = homework.percentiles(np.quantile(references, [0.95]), references)
    assert at_95 == pytest.approx([95], abs=0.1)


def test_plot_percentiles_draws_a_histogram_for_each_kind(homework, displayed):
    ranks = {"Distance": np.array([1.0, 2, 99]), "Error": np.array([50.0, 60, 70])}
    figure = homework.plot_percentiles(ranks)
    homework.show(figure, "histograms")
    assert [axis.get_title() for axis in figure.axes] == list(ranks)
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    assert [len(bars) for bars in heights] == [20, 20]
    assert (heights[0][0], heights[0][-1], sum(heights[1])) == (2, 1, 3)
    assert figure.axes[0].lines[0].get_xdata() == [95, 95]


def test_read_pairs_says_what_each_reader_sees(homework):
    pairs = np.array([[2, 3], [9, 4]])
    images = {"found": points((0, 0), (0, 0))}
    readers = {
        "even": answering({2: 0.5, 3: 0.5}, {9: 0.495, 4: 0.505}),
        "torn": answering({2: 0.9, 3: 0.1}, {9: 0.2, 4: 0.2, 0: 0.6}),
        "blind": answering({0: 1.0}, {0: 1.0}),
    }
    rows = homework.read_pairs(readers, images, pairs, tolerance=0.01)
    both = homework.describe_share(np.array([True, True]), 0)
    none = homework.describe_share(np.array([False, False]), 0)
    assert rows == [
        ["found", "even", both, "1.00", "100%", "0.50"],
        ["found", "torn", none, "0.70", "50%", "0.30"],
        ["found", "blind", none, "0.00", "0%", "0.00"],
    ]
    assert len(rows[0]) == len(homework.PAIR_HEADER)


def test_probe_moves_the_images_as_it_says(homework, linear_model):
    """A model that sees one pixel, off the middle of a small square."""
    model = homework.keras.models.clone_model(linear_model)
    weights = np.zeros((28, 28, 10))
    weights[16, 14, 2], weights[14, 16, 5] = 20, 20
    model.set_weights([weights.reshape(784, 10), np.zeros(10)])
    image = np.zeros((1, 28, 28, 1), np.float32)
    image[0, 14, 14] = 1
    images = np.repeat(image, 4, axis=0)
    down = homework.probe(model, images, np.full(4, 2))
    right = homework.probe(model, images, np.full(4, 5))
    names = [
        "as it is",
        "noise 0.1",
        "2 pixels down",
        "2 pixels right",
        "turned by 10°",
    ]
    assert list(down) == list(right) == names
    assert (down["as it is"], right["as it is"]) == ("0.100", "0.100")
    assert (down["2 pixels down"], right["2 pixels down"]) == ("1.000", "0.000")
    assert (down["2 pixels right"], right["2 pixels right"]) == ("0.000", "1.000")


def test_probe_turns_by_ten_degrees_about_the_middle(homework, linear_model):
    """A dot 12 pixels right of the middle moves 2.1 rows, up or down."""
    dot = np.zeros((1, 28, 28, 1), np.float32)
    dot[0, 13:15, 25:27] = 1
    seen = []
    for near, far in ((slice(11, 13), slice(0, 11)), (slice(15, 17), slice(17, 28))):
        model = homework.keras.models.clone_model(linear_model)
        weights = np.zeros((28, 28, 10))
        weights[near, 20:, 2] = weights[far, 20:, 3] = 20
        weights[13:15, 20:, 4] = 40
        model.set_weights([weights.reshape(784, 10), np.zeros(10)])
        found = homework.probe(model, dot, np.array([2]))
        assert found["as it is"] == "0.000"
        seen.append(found["turned by 10°"])
    assert "1.000" in seen
    assert seen[0] != seen[1]
