"""Whatever a function is given: a right answer, or a ValueError that says what came.

The table `CASES` holds arguments that are right, for every public function of the
notebook; a function without an entry fails the tests. The properties are then those of
all functions: right arguments give finite answers, and spoiled ones either do too or
raise a ValueError that says what was expected.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

# Without a limit of time: what is computed for the first time is compiled.
QUICK = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to make a failure small takes longer than to read it
)
FEW = settings(QUICK, max_examples=3)


@pytest.fixture(scope="module")
def tools(homework, linear_model, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """What the cases need; what they would show is dropped."""
    keras = homework.keras
    folder = tmp_path_factory.mktemp("input")
    handle = SimpleNamespace(update=lambda *_, **__: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homework, "display", lambda *_, **__: handle)
        inputs = keras.Input(homework.IMAGE_SHAPE)
        flat = keras.layers.Flatten()(keras.layers.AveragePooling2D(7)(inputs))
        small = keras.Model(inputs, keras.layers.Dense(homework.CLASSES)(flat))
        homework.save_model(linear_model, {"seconds": 1}, folder / "saved.keras")
        yield SimpleNamespace(hw=homework, model=linear_model, small=small, to=folder)


# ----------------------------------------------------------------- right arguments


def images(draw: Callable, n: int) -> np.ndarray:
    """Draw images: noise, the ends of the range, or one white pixel."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "black", "white", "pixel"]))
    pictures = {
        "noise": random.random((n, 28, 28, 1)),
        "black": np.zeros((n, 28, 28, 1)),
        "white": np.ones((n, 28, 28, 1)),
        "pixel": np.eye(784)[random.integers(0, 784, n)].reshape(n, 28, 28, 1),
    }
    return pictures[kind].astype(draw(st.sampled_from(["f4", "f8"])))


def labels(draw: Callable, n: int) -> np.ndarray:
    """Draw digits."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.integers(0, 10, n).astype(draw(st.sampled_from(["u1", "i4", "i8"])))


def targets(draw: Callable, n: int) -> np.ndarray:
    """Draw probability vectors, sure ones among them."""
    sure = np.eye(10)[labels(draw, n)]
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return (share * sure + (1 - share) / 10).astype(draw(st.sampled_from(["f4", "f8"])))


def logits(draw: Callable, n: int) -> np.ndarray:
    """Draw logits from nearly even to sure."""
    scale = draw(st.sampled_from([0.0, 1.0, 1e4]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return (scale * random.normal(size=(n, 10))).astype("f4")


def whole(draw: Callable, low: int, high: int) -> int:
    """Draw a whole number."""
    return draw(st.integers(low, high))


def share(draw: Callable) -> float:
    """Draw a number from 0 to 1."""
    return draw(st.floats(0, 1))


def all_digits(n: int) -> np.ndarray:
    """Return n labels, every digit among them at least twice."""
    return np.arange(max(20, n)) % 10


def found(draw: Callable, t: SimpleNamespace, n: int) -> Any:
    """Draw the result of a descent."""
    pictures = images(draw, n).astype("f4")
    fits = np.array([share(draw) for _ in range(n)], "f4")
    path = np.stack([pictures, pictures])
    wanted = targets(draw, n).astype("f4")
    return t.hw.Optimization(wanted, pictures, fits, np.ones((3, n), "f4"), path)


def descent(draw: Callable, t: SimpleNamespace, n: int) -> dict[str, Any]:
    """Draw arguments of a short descent."""
    return dict(
        model=t.model,
        targets=targets(draw, n),
        initial_images=images(draw, n),
        typical=np.ones((2, 10, 3)) * whole(draw, 1, 100),
        weights=[0.1, share(draw), 0.3, 0.001],
        steps=whole(draw, 1, 4),
        rate=draw(st.sampled_from([1e-3, 0.1, 1e3])),
        noise=draw(st.sampled_from([0.0, 1.0, 1e3])),
        shift=whole(draw, 0, 28),
        settling_share=draw(st.sampled_from([1e-3, 0.5, 1.0])),
        seed=whole(draw, 0, 2**31 - 1),
        momentum=draw(st.sampled_from([0.0, 0.9, 0.999])),
        keep_every=whole(draw, 1, 5),
    )


def training(draw: Callable, t: SimpleNamespace, n: int) -> dict[str, Any]:
    """Draw arguments of a short training."""
    pairs = [(images(draw, n), labels(draw, n)) for _ in range(2)]
    rates = dict(learning_rate=draw(st.sampled_from([1e-4, 1.0])), weight_decay=0.05)
    ways = dict(distortion=share(draw), attack_length=share(draw))
    amount = dict(epochs=1, batch_size=whole(draw, 1, 9), seed=whole(draw, 0, 99))
    model = t.hw.keras.models.clone_model(t.small)
    pairs = dict(training=pairs[0], validation=pairs[1])
    return dict(network=model, **pairs, **amount, **rates, **ways)


def seed_pair(draw: Callable) -> tuple[int, int]:
    """Draw a seed of two numbers."""
    return whole(draw, 0, 2**31 - 1), whole(draw, 0, 2**31 - 1)


def judge(shown: np.ndarray) -> np.ndarray:
    """Answer evenly."""
    return np.full((len(shown), 10), 0.1)


def ranges(draw: Callable, n: int, high: float = 100.0) -> np.ndarray:
    """Draw n numbers from 0 to `high`."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.uniform(0, draw(st.sampled_from([0.0, high])), n)


# Right arguments of every public function: (draw, tools, batch size) to arguments.
CASES: dict[str, Callable[[Callable, SimpleNamespace, int], dict[str, Any]]] = {
    "check": lambda d, t, n: dict(
        name="x", value=images(d, n), rule="n 28 28 1 in [0, 1]", sizes={}
    ),
    "checked": lambda d, t, n: {},
    "by_digit": lambda d, t, n: dict(
        values=ranges(d, 20), labels=all_digits(20), least=whole(d, 1, 2)
    ),
    "idx_digest": lambda d, t, n: dict(array=labels(d, n).astype(np.uint8)),
    "read_mnist_file": lambda d, t, n: dict(path=t.hw.DATA_FILE),
    "load_mnist": lambda d, t, n: dict(path=t.hw.DATA_FILE),
    "to_images": lambda d, t, n: dict(pixels=np.round(255 * images(d, n)[..., 0])),
    "split_stratified": lambda d, t, n: dict(
        labels=labels(d, n + 1), held_out=whole(d, 1, n), seed=whole(d, 0, 2**31 - 1)
    ),
    "wilson_interval": lambda d, t, n: dict(successes=whole(d, 0, n), trials=n),
    "describe_share": lambda d, t, n: dict(
        hits=labels(d, n) > 4, digits=whole(d, 0, 6)
    ),
    "divergence": lambda d, t, n: dict(targets=targets(d, n), logits=logits(d, n)),
    "squared_error": lambda d, t, n: dict(targets=targets(d, n), logits=logits(d, n)),
    "one_hot": lambda d, t, n: dict(labels=labels(d, n)),
    "half_way": lambda d, t, n: dict(pairs=np.transpose([labels(d, n), labels(d, n)])),
    "show": lambda d, t, n: dict(figure=t.hw.plt.figure(), description="a figure"),
    "show_digits": lambda d, t, n: dict(
        images=images(d, n),
        title="digits",
        description="digits",
        columns=whole(d, 1, 4),
        captions=["x"] * n,
        row_labels=["y"] * n,
    ),
    "predict": lambda d, t, n: dict(model=t.model, images=images(d, n)),
    "describe_answer": lambda d, t, n: dict(probabilities=targets(d, n)[0]),
    "show_table": lambda d, t, n: dict(header=["a"] * n, rows=[[1.5] * n] * n),
    "check_writable": lambda d, t, n: dict(folder=t.to),
    "save_model": lambda d, t, n: dict(
        network=t.model, record={"seconds": share(d)}, path=t.to / "model.keras"
    ),
    "load_model": lambda d, t, n: dict(path=t.to / "saved.keras"),
    "build_network": lambda d, t, n: dict(
        dropout=0.9 * share(d), seed=whole(d, 0, 2**31 - 1)
    ),
    "count_network": lambda d, t, n: dict(model=t.model),
    "sample_bilinear": lambda d, t, n: dict(
        images=images(d, n),
        coordinates=np.full((n, 784, 2), d(st.sampled_from([-1e9, -1, 13.5, 1e9]))),
    ),
    "distort": lambda d, t, n: dict(
        images=images(d, n), strength=10 * share(d), seed=seed_pair(d)
    ),
    "attack": lambda d, t, n: dict(
        network=t.model,
        images=images(d, n),
        targets=targets(d, n),
        lengths=ranges(d, n, 1000).reshape(n, 1, 1, 1),
    ),
    "mix_with_noise": lambda d, t, n: dict(
        images=images(d, n), targets=targets(d, n), seed=seed_pair(d)
    ),
    "make_optimizer": lambda d, t, n: dict(
        steps=n, learning_rate=1e-3, weight_decay=share(d)
    ),
    "train": training,
    "score": lambda d, t, n: dict(logits=logits(d, n), labels=labels(d, n)),
    "confusion_matrix": lambda d, t, n: dict(
        labels=labels(d, n), predictions=labels(d, n)
    ),
    "show_confusions": lambda d, t, n: dict(matrix=np.eye(10, dtype=int) * (n - 1)),
    "reliability": lambda d, t, n: dict(
        probabilities=targets(d, n), labels=labels(d, n), bins=n
    ),
    "plot_training": lambda d, t, n: dict(
        history={
            name: ranges(d, n, 1).tolist()
            for name in ("loss", "val_loss", "accuracy", "val_accuracy")
        },
        confidence=ranges(d, n, 1),
        hits=np.arange(n),
        count=np.arange(n) + 1,
    ),
    "statistics": lambda d, t, n: dict(images=images(d, n)),
    "regularization": lambda d, t, n: dict(
        images=images(d, n),
        targets=targets(d, n),
        typical=np.ones((2, 10, 3)) * whole(d, 0, 2),
        weights=ranges(d, 4),
    ),
    "round_pixels": lambda d, t, n: dict(images=images(d, n)),
    "disturb": lambda d, t, n: dict(
        images=images(d, n),
        noise=1e3 * share(d),
        shift=whole(d, 0, 28),
        seed=seed_pair(d),
    ),
    "optimize_images": descent,
    "summarize_soft": lambda d, t, n: dict(
        model=t.model, results={"a": found(d, t, n)}, tolerance=share(d)
    ),
    "measure_digits": lambda d, t, n: dict(images=images(d, 20), labels=all_digits(20)),
    "draw_digits": lambda d, t, n: dict(
        labels=all_digits(20), wanted=np.unique(labels(d, n)), seed=whole(d, 0, 99)
    ),
    "make_starts": lambda d, t, n: dict(
        kind=d(st.sampled_from(["uniform", "gaussian", "black", "gray"])),
        seeds=np.arange(n) + whole(d, 0, 2**31 - 9),
    ),
    "pick_runs": lambda d, t, n: dict(
        fits=ranges(d, 20), wanted=all_digits(20), count=n
    ),
    "add_noise": lambda d, t, n: dict(
        images=images(d, n), level=1e3 * share(d), seeds=np.arange(n)
    ),
    "plot_fits": lambda d, t, n: dict(
        histories={"a": np.ones((n, 3)), "b": np.zeros((n, 2))}, goal=1e-3, title="fits"
    ),
    "gradient_norms": lambda d, t, n: dict(
        model=t.model,
        targets=targets(d, n),
        images=images(d, n),
        loss=d(st.sampled_from([t.hw.divergence, t.hw.squared_error])),
    ),
    "summarize_runs": lambda d, t, n: dict(
        model=t.model, results={"a": found(d, t, n)}, goal=share(d)
    ),
    "naive_descent": lambda d, t, n: dict(
        model=t.model, targets=targets(d, n), images=images(d, n), steps=2, rate=1e3
    ),
    "save_results": lambda d, t, n: dict(
        path=t.to / "found.npz",
        model=t.model,
        runs={("random", "uniform"): found(d, t, n)},
        seed=whole(d, 0, 99),
    ),
    "dense_judge": lambda d, t, n: dict(
        images=images(d, n), labels=labels(d, n), seed=whole(d, 0, 99)
    ),
    "nearest": lambda d, t, n: dict(
        images=images(d, n), references=images(d, n + 1), count=whole(d, 1, n + 1)
    ),
    "neighbour_judge": lambda d, t, n: dict(images=images(d, n), labels=labels(d, n)),
    "summarize_transfer": lambda d, t, n: dict(
        seen={"a": np.tile(labels(d, n) > 4, (3, 1))},
        fits={"a": ranges(d, n)},
        goal=share(d),
    ),
    "fit_subspaces": lambda d, t, n: dict(
        images=images(d, 20)[:, :6, :6], labels=all_digits(20), rank=whole(d, 1, 9)
    ),
    "reconstruction_errors": lambda d, t, n: dict(
        images=images(d, n), means=np.zeros((10, 784)), bases=np.zeros((10, 784, 2))
    ),
    "subspace_judge": lambda d, t, n: dict(
        means=np.zeros((10, 784)), bases=np.zeros((10, 784, 2))
    ),
    "make_judges": lambda d, t, n: dict(
        images=images(d, n),
        labels=labels(d, n),
        subspaces=(np.zeros((10, 784)), np.zeros((10, 784, 2))),
        seed=whole(d, 0, 99),
    ),
    "transfer": lambda d, t, n: dict(
        judges={"even": judge}, images=images(d, n), wanted=labels(d, n)
    ),
    "percentiles": lambda d, t, n: dict(
        values=ranges(d, n), references=ranges(d, n + 1)
    ),
    "plot_percentiles": lambda d, t, n: dict(ranks={"a": ranges(d, n)}),
    "read_pairs": lambda d, t, n: dict(
        readers={"even": judge},
        pictures={"a": images(d, n)},
        pairs=np.transpose([labels(d, n), labels(d, n)]),
        tolerance=share(d),
    ),
    "probe": lambda d, t, n: dict(
        model=t.model, images=images(d, n), wanted=labels(d, n)
    ),
}
# No arguments that could be wrong; parts of `optimize_images`, which checks them.
WITHOUT_INPUT = {"build_alexnet", "download_mnist", "descend", "keep_last"}
# What they compute takes its time.
SLOW = {"train", "dense_judge", "make_judges", "load_mnist", "read_mnist_file"}


def public_functions(homework: ModuleType) -> set[str]:
    """Return the names of all functions that the notebook defines."""
    compiled = type(homework.descend)
    return {
        name
        for name, value in vars(homework).items()
        if (inspect.isfunction(value) or isinstance(value, compiled))
        and not name.startswith("_")
        and inspect.unwrap(getattr(value, "python_function", value)).__module__
        == homework.__name__
    }


def test_every_public_function_has_a_case(homework):
    assert public_functions(homework) == set(CASES) | WITHOUT_INPUT


def arguments_of(draw: Callable, tools: SimpleNamespace, name: str) -> dict[str, Any]:
    """Draw right arguments of a function, in the order of its definition."""
    given_ = CASES[name](draw, tools, draw(st.integers(1, 3)))
    known = inspect.signature(getattr(tools.hw, name)).parameters
    assert name == "checked" or set(given_) == set(known), "the table is out of date"
    return given_


def is_finite(value: Any) -> bool:
    """Tell whether a result holds numbers, and none that is not finite."""
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    if isinstance(value, str):
        return "nan" not in value and "inf" not in value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return True
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def call(tools: SimpleNamespace, name: str, arguments: dict[str, Any]) -> Any:
    """Call a function and close what it has drawn."""
    try:
        with np.errstate(all="ignore"):
            return getattr(tools.hw, name)(**arguments)
    finally:
        tools.hw.plt.close("all")


def examine_right_arguments(tools: SimpleNamespace, name: str, draw: Callable) -> None:
    """Expect a finite answer."""
    assert is_finite(call(tools, name, arguments_of(draw, tools, name)))


@pytest.mark.parametrize("name", sorted(set(CASES) - SLOW))
def test_right_arguments_give_finite_answers(tools, name):
    @FEW
    @given(st.data())
    def examine(data):
        examine_right_arguments(tools, name, data.draw)

    examine()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_right_arguments_give_finite_answers_where_it_takes_long(tools, name):
    @settings(FEW, max_examples=2)
    @given(st.data())
    def examine(data):
        examine_right_arguments(tools, name, data.draw)

    examine()


# ------------------------------------------------------------------- huge batches

# Functions whose answer to an image does not depend on the images beside it, and the
# arguments with which that is so.
BY_IMAGE: dict[str, dict[str, Any]] = {
    "to_images": {},
    "one_hot": {},
    "half_way": {},
    "divergence": {},
    "squared_error": {},
    "predict": {},
    "sample_bilinear": {},
    "attack": {},
    "statistics": {},
    "regularization": {},
    "round_pixels": {},
    "disturb": dict(noise=0.0, shift=0),
    "distort": dict(strength=0.0),
    "optimize_images": dict(noise=0.0, shift=0, steps=2, rate=0.1),
    "naive_descent": dict(rate=1.0),
    "make_starts": {},
    "add_noise": {},
    "gradient_norms": {},
    "nearest": dict(count=1),
    "reconstruction_errors": {},
    "percentiles": {},
}
HUGE, FEW_OF_THEM = 1003, 3


def first_rows(value: Any, count: int) -> Any:
    """Return the first rows of what has one for each image of a huge batch."""
    return value[:count] if np.shape(value)[:1] == (HUGE,) else value


@pytest.mark.parametrize("name", BY_IMAGE)
def test_an_image_among_a_thousand_gets_the_answer_it_gets_among_three(tools, name):
    @settings(FEW, max_examples=1)
    @given(st.data())
    def examine(data):
        arguments = CASES[name](data.draw, tools, HUGE) | BY_IMAGE[name]
        few = {k: first_rows(value, FEW_OF_THEM) for k, value in arguments.items()}
        answers = [call(tools, name, each) for each in (arguments, few)]
        if name in ("optimize_images", "naive_descent"):
            answers = [answer.images for answer in answers]
        if name == "nearest":
            answers = [distances for distances, _ in answers]
        assert len(answers[0]) == HUGE
        whole, part = (np.asarray(answer) for answer in answers)
        # a hundredth: pixels are rounded to 1/255, now and then to the neighbour
        np.testing.assert_allclose(whole[:FEW_OF_THEM], part, rtol=1e-3, atol=0.01)

    examine()


# --------------------------------------------------------------- spoiled arguments

NO_NUMBERS = ("text", None, object(), {}, [[1], [1, 2]], np.array([None, 1]), 1j)


def with_one(array: np.ndarray, value: float) -> np.ndarray:
    """Return an array of floats with one number replaced."""
    array = np.array(array, float)
    array.flat[array.size // 2] = value
    return array


def spoiled(value: Any) -> st.SearchStrategy:
    """Return a strategy for what may be given by mistake instead of `value`."""
    if isinstance(value, bool) or value is None:
        return st.sampled_from(NO_NUMBERS)
    if isinstance(value, int | float):
        numbers = [math.nan, math.inf, -math.inf, -1, -0.5, 1e40, 10**12, [1, 2], []]
        return st.sampled_from([*NO_NUMBERS[:-1], *numbers, value + 0.5])
    numeric = isinstance(value, np.ndarray) or (
        isinstance(value, list | tuple)
        and all(isinstance(x, int | float) for x in value)
    )
    if not numeric:  # paths, texts, models, dictionaries and tuples of arrays
        others = [None, 3, 2.5, object(), {}, {"a": None}, {1: 2}, [None], (1, 2), []]
        return st.sampled_from([*others, b"bytes", np.zeros(3)])
    array = np.asarray(value)
    wrong = (math.nan, math.inf, -math.inf, 1e36, -9, 0.25)
    holes = [with_one(array, number) for number in wrong]
    shapes = [array[np.newaxis], array[..., np.newaxis], array[:0], array[0]]
    shapes += [np.concatenate([array, array]), np.repeat(array, 2, axis=-1)]
    kinds = [array.astype(str), array.astype(object), array.astype(complex)]
    fixed = st.sampled_from([*NO_NUMBERS, *holes, *shapes, *kinds])
    others = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)
    return fixed | others.map(np.ones)


# What `check` itself is told.
UNCHECKED = {("check", "name"), ("check", "rule"), ("check", "sizes")}
# It only sorts what it is given, numbers or not.
SORTING = {"by_digit"}
# Of rows that differ in length NumPy says itself what came.
SAYS_WHAT_CAME = re.compile(
    "expected .*got|not a readable copy of MNIST|inhomogeneous shape", re.DOTALL
)


def examine_spoiled_arguments(tools: SimpleNamespace, name: str) -> None:
    """Spoil each argument in turn, the others being right."""

    @QUICK
    @given(st.data())
    def examine(data: st.DataObject) -> None:
        arguments = arguments_of(data.draw, tools, name)
        for spoil in arguments:
            if (name, spoil) in UNCHECKED:
                continue
            value = data.draw(spoiled(arguments[spoil]), label=spoil)
            try:
                answer = call(tools, name, arguments | {spoil: value})
            except ValueError as error:
                assert SAYS_WHAT_CAME.search(str(error)), f"{spoil}: {error}"
            except OSError as error:
                assert "there is no model" in str(error), f"{spoil}: {error}"
            else:
                assert is_finite(answer) or name in SORTING, f"{spoil} was {value!r}"

    examine()


@pytest.mark.parametrize("name", sorted(set(CASES) - {"checked", "train"}))
def test_spoiled_arguments_are_refused_or_answered(tools, name):
    examine_spoiled_arguments(tools, name)


@pytest.mark.slow
def test_a_training_refuses_spoiled_arguments_or_ends_well(tools):
    examine_spoiled_arguments(tools, "train")


@pytest.mark.parametrize("name", ["predict", "optimize_images", "naive_descent"])
def test_a_model_whose_answers_are_no_numbers_is_refused(tools, name):
    broken = tools.hw.keras.models.clone_model(tools.model)
    broken.set_weights([np.full(w.shape, np.nan) for w in tools.model.get_weights()])

    @settings(FEW, max_examples=1)
    @given(st.data())
    def examine(data):
        arguments = arguments_of(data.draw, tools, name) | {"model": broken}
        with pytest.raises(ValueError, match=r"expected finite .* (nan|inf) to"):
            call(tools, name, arguments)

    examine()
