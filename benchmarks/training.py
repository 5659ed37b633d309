"""Compare the notebook's training with two that one would pick instead.

    python benchmarks/training.py [--only-missing]

Trains the notebook's network, keras.io's and Deotte's at full length, and the
notebook's without one of its parts at a time; at most three hours on two cores. Each
training is kept when it ends: with `--only-missing` a run goes on where one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from common import (
    FIT_GOAL,
    FOLDER,
    alternate,
    describe_machine,
    judge_target,
    load_homework,
    make_judges,
    measure,
    median_and_range,
    read_record,
    save_plot,
    table,
    write_record,
    write_section,
)
from contestants import find_images, make_starts, make_task

OURS, SIMPLE, DEOTTE = "the notebook", "keras.io", "Deotte"
LEVELS = (0.99, 0.993, 0.995)
PUBLISHED_EPOCHS = {SIMPLE: 15, DEOTTE: 30}
BATCHES = {OURS: 128, SIMPLE: 128, DEOTTE: 64}
SLICES = 4  # validations an epoch of Deotte's, for a finer curve
PARTS = "without distortion", "without mixing", "without blots", "constant rate"
FIGURES = ("seconds", "validation accuracy", "test accuracy", "fit", "transfer")
FIGURES += ("shape", "one piece", "gray", "spread", "worst digit below real")


# ------------------------------------------------------------------------- trainings


def load_data(homework: ModuleType, seed: int, count: int) -> dict[str, tuple]:
    """Return training, validation and test set, split as in the notebook."""
    digits, labels, test_digits, test_labels = homework.load_mnist()
    order = np.random.default_rng(seed).permutation(len(digits))
    held_out, kept = order[:5_000], order[5_000:][:count]
    return {
        "training": (digits[kept], labels[kept]),
        "validation": (digits[held_out], labels[held_out]),
        "test": (test_digits, test_labels),
    }


def make_clock(homework: ModuleType, budget: float) -> Any:
    """Return a callback that notes training seconds and validation accuracy.

    Time in validation does not count. After `budget` seconds the training stops.
    """

    class Clock(homework.keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seconds, self.curve = 0.0, []

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            self.start = time.perf_counter()

        def on_test_begin(self, logs: dict | None = None) -> None:
            self.seconds += time.perf_counter() - self.start

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            self.curve.append((round(self.seconds, 1), logs["val_accuracy"]))
            self.model.stop_training |= self.seconds > budget

    return Clock()


@contextlib.contextmanager
def leave_out(homework: ModuleType, part: str) -> Iterator[None]:
    """Take one part out of the notebook's training while the block runs."""
    schedules = homework.keras.optimizers.schedules

    def uniform_noise(_: Any, count: int) -> Any:
        return homework.tf.random.uniform((count, 28, 28, 1))

    def half_the_rate(*_: Any, **options: Any) -> float:
        return options["warmup_target"] / 2

    patches = {
        "without distortion": (homework, "transform", lambda images, _: images),
        "without blots": (homework, "draw_noise", uniform_noise),
        "constant rate": (schedules, "CosineDecay", half_the_rate),
    }
    with patch.object(*patches[part]) if part in patches else contextlib.nullcontext():
        yield


def train_ours(
    homework: ModuleType, data: dict, epochs: int, seed: int, part: str = ""
) -> tuple[Any, list]:
    """Train with the notebook's own function; return the network and its curve."""
    clock, one_hot = make_clock(homework, math.inf), np.eye(10, dtype="float32")
    sets = [(data[x][0], one_hot[data[x][1]]) for x in ("training", "validation")]
    mean, covariance = homework.fit_gaussian(sets[0][0], 1e-4)
    factor = np.linalg.cholesky(covariance)
    gaussian = None if part == "without mixing" else (mean, factor)
    # the clock takes the place of the callback that stops a failed training
    with (
        leave_out(homework, part),
        patch.object(homework, "SEED", seed),
        patch.object(homework.keras.callbacks, "TerminateOnNaN", lambda: clock),
    ):
        network = homework.train_network(*sets, epochs, gaussian)
    return network, clock.curve


def build_simple(homework: ModuleType) -> Any:
    """Return the network of keras.io's "Simple MNIST convnet" (Chollet, 2015)."""
    keras, layers = homework.keras, homework.layers
    stack = [keras.Input((28, 28, 1))]
    for filters in (32, 64):
        stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dropout(0.5)]
    return keras.Sequential([*stack, layers.Dense(10, activation="softmax")])


def build_deotte(homework: ModuleType) -> Any:
    """Return the network of Deotte's "25 Million Images! [0.99757] MNIST" (2018)."""
    keras, layers = homework.keras, homework.layers
    stack = [keras.Input((28, 28, 1))]
    for filters in (32, 64):
        for size, stride in ((3, 1), (3, 1), (5, 2)):
            padding = "same" if stride == 2 else "valid"
            options = dict(padding=padding, activation="relu")
            stack += [layers.Conv2D(filters, size, stride, **options)]
            stack += [layers.BatchNormalization()]
        stack += [layers.Dropout(0.4)]
    stack += [layers.Conv2D(128, 4, activation="relu"), layers.BatchNormalization()]
    stack += [layers.Flatten(), layers.Dropout(0.4)]
    return keras.Sequential([*stack, layers.Dense(10, activation="softmax")])


def feed_deotte(homework: ModuleType, images: np.ndarray, labels: np.ndarray) -> Any:
    """Return endless batches, augmented: 10 degrees, 10 % zoom and shift."""
    layers, tf = homework.layers, homework.tf
    fill = dict(fill_mode="nearest")
    views = homework.keras.Sequential(
        [
            layers.RandomRotation(10 / 360, **fill),
            layers.RandomZoom(0.1, 0.1, **fill),
            layers.RandomTranslation(0.1, 0.1, **fill),
        ]
    )
    data = tf.data.Dataset.from_tensor_slices((images, labels)).repeat()
    data = data.shuffle(10_000, seed=0).batch(BATCHES[DEOTTE], drop_remainder=True)
    data = data.map(lambda x, y: (views(x, training=True), y), tf.data.AUTOTUNE)
    return data.prefetch(tf.data.AUTOTUNE)


def train_peer(
    homework: ModuleType, name: str, data: dict, epochs: int, seed: int, budget: float
) -> tuple[Any, list]:
    """Train a peer as published until its epochs or the seconds are used up."""
    keras = homework.keras
    keras.utils.set_random_seed(seed)
    network = (build_simple if name == SIMPLE else build_deotte)(homework)
    steps = max(SLICES, len(data["training"][0]) // BATCHES[name])
    rate: Any = 1e-3
    if name == DEOTTE:
        rate = keras.optimizers.schedules.ExponentialDecay(1e-3, steps, 0.95, True)
    loss = "sparse_categorical_crossentropy"
    optimizer = keras.optimizers.Adam(rate)
    network.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    clock = make_clock(homework, budget)
    options = dict(validation_data=data["validation"], callbacks=[clock], verbose=0)
    if name == SIMPLE:
        network.fit(*data["training"], batch_size=128, epochs=epochs, **options)
    else:
        slices = dict(steps_per_epoch=steps // SLICES, epochs=SLICES * epochs)
        network.fit(feed_deotte(homework, *data["training"]), **slices, **options)
    return network, clock.curve


def measure_rate(homework: ModuleType, rounds: int, count: int) -> dict[str, list]:
    """Return images a second of each training, one short epoch in turn."""
    data = load_data(homework, homework.SEED, count)
    data["validation"] = tuple(x[:10] for x in data["validation"])
    own = {OURS: lambda: train_ours(homework, data, 1, 0)[1]}
    peers = {
        name: lambda name=name: train_peer(homework, name, data, 1, 0, math.inf)[1]
        for name in PUBLISHED_EPOCHS
    }
    found = {name: [] for name in own | peers}

    def note(name: str, call: Any) -> None:
        found[name].append(count / call()[-1][0])

    calls = {
        name: lambda name=name, call=call: note(name, call)
        for name, call in (own | peers).items()
    }
    alternate(calls, rounds)
    return {name: values[1:] for name, values in found.items()}


def measure_training(
    homework: ModuleType, judges: Any, name: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Train one contestant or part; return curve, test accuracy and, if ours, images.

    These are found from random starts, the digits in turn: 500, or 100 for a part.
    """
    data = load_data(homework, seed, options.images)
    if name in (SIMPLE, DEOTTE):
        epochs = min(options.epochs or 99, PUBLISHED_EPOCHS[name])
        amount = epochs, seed, options.budget
        network, curve = train_peer(homework, name, data, *amount)
    else:
        epochs = options.epochs or homework.EPOCHS
        network, curve = train_ours(homework, data, epochs, seed, name)
    answers = network.predict(data["test"][0], batch_size=500, verbose=0)
    accuracy = float(np.mean(answers.argmax(axis=1) == data["test"][1]))
    entry = {"curve": curve, "test": accuracy}
    if name not in (SIMPLE, DEOTTE):
        wanted, starts = make_starts(homework, 500 if name == OURS else 100, 0)
        task = make_task(homework, network)
        images = find_images(task, wanted, starts, homework.STEPS, 0)
        entry["images"] = measure(judges, network, images, wanted)
    return entry


# --------------------------------------------------------------------------- tables


def seconds_to(curve: list, level: float) -> float:
    """Return the training seconds after which the accuracy is at least `level`."""
    return min((s for s, accuracy in curve if accuracy >= level), default=math.inf)


def describe_seconds(runs: list[dict], level: float) -> str:
    """Return the median seconds to a level, and the seeds that reached it if few."""
    times = [seconds_to(run["curve"], level) for run in runs]
    reached = sum(map(math.isfinite, times))
    middle = float(np.median(times))
    text = f"{middle:.0f}" if math.isfinite(middle) else "not reached"
    return text if reached in (0, len(times)) else f"{text} ({reached} of {len(times)})"


def group(record: dict) -> dict[str, dict[str, dict]]:
    """Return the runs of each training by their seeds."""
    runs: dict[str, dict[str, dict]] = {}
    for key, entry in record["runs"].items():
        name, seed = key.split(" | seed ")
        runs.setdefault(name, {})[seed] = entry
    return runs


def curve_table(runs: dict[str, dict], rate: dict) -> str:
    """Return seconds to each level, accuracies and speed of each training."""
    rows = []
    for name in (OURS, SIMPLE, DEOTTE):
        own = list(runs[name].values())
        row = [name, len(own), f"{np.mean([x['curve'][-1][0] for x in own]):.0f}"]
        row += [describe_seconds(own, level) for level in LEVELS]
        row += [f"{np.mean([max(a for _, a in x['curve']) for x in own]):.2%}"]
        row += [f"{np.mean([x['test'] for x in own]):.2%}"]
        rows.append([*row, median_and_range(rate[name])])
    levels = [f"seconds to {level:.1%}" for level in LEVELS]
    header = [
        "training",
        "seeds",
        "seconds in all",
        *levels,
        "best validation accuracy",
    ]
    return table([*header, "test accuracy at the end", "images a second"], rows)


def check_targets(runs: dict[str, dict]) -> str:
    """Return a table of the targets: each level that a peer reaches, before it.

    Of the seeds that both have, since these choose the held-out images too.
    """
    rows = []
    for name in (SIMPLE, DEOTTE):
        seeds = runs[OURS].keys() & runs[name].keys()
        for level in LEVELS:
            both = [
                np.median([seconds_to(runs[x][seed]["curve"], level) for seed in seeds])
                for x in (OURS, name)
            ]
            if math.isfinite(both[1]):
                ours = f"{both[0]:.0f} s" if math.isfinite(both[0]) else "not reached"
                text = f"{ours} against {both[1]:.0f} s, seeds: {len(seeds)}"
                target = f"{level:.1%} before {name}"
                rows.append(judge_target(target, text, both[0] < both[1]))
    return table(["target (median of the seeds)", "measured", ""], rows)


def describe_images(entry: dict, record: dict) -> list[str]:
    """Return the figures of one training: seconds, accuracies, and its images measured.

    The last figure is by how much the shapes of the worst digit lie below those of real
    ones.
    """
    images = entry["images"]
    fit = np.mean(np.array(images["fit"]) <= record["fit_goal"])
    by_digit = np.reshape(images["shape"], (-1, 10)).mean(axis=0)
    row = [f"{entry['curve'][-1][0]:.0f}", f"{entry['curve'][-1][1]:.2%}"]
    row += [f"{entry['test']:.2%}", f"{fit:.0%}"]
    row += [f"{np.mean(images[x]):.1%}" for x in ("transfer", "shape", "one piece")]
    row += [f"{np.mean(images[x]):.2f}" for x in ("gray", "spread")]
    return [*row, f"{max(record['real'] - by_digit):.2f}"]


def part_table(record: dict) -> str:
    """Return what each part costs in seconds, and gives by accuracy and by shape."""
    runs, rows = group(record), []
    for name in [x for x in runs if x not in (SIMPLE, DEOTTE)]:
        for seed, entry in runs[name].items():
            title = "everything" if name == OURS else name
            rows.append([title, seed, *describe_images(entry, record)])
    return table(["training", "seed", *FIGURES], rows)


def plot_curves(runs: dict[str, dict]) -> Any:
    """Return a figure of the validation error over the seconds of training."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    colors = plt.get_cmap("viridis")([0, 0.4, 0.8])
    for color, marker, name in zip(colors, "os^", (OURS, SIMPLE, DEOTTE), strict=True):
        for number, run in enumerate(runs[name].values()):
            seconds, values = np.transpose(run["curve"])
            errors = 100 * (1 - values).clip(1e-4)
            label = None if number else name
            axis.plot(seconds, errors, marker + "-", color=color, ms=3, label=label)
    for level in LEVELS:
        axis.axhline(100 * (1 - level), color="gray", linewidth=0.8, linestyle=":")
        place = dict(xy=(1.01, 100 * (1 - level)), xycoords=("axes fraction", "data"))
        axis.annotate(f"{level:.1%} right", fontsize=8, va="center", **place)
    axis.set(xlabel="seconds of training", ylabel="validation errors (%)", yscale="log")
    axis.set_title("Errors on 5,000 held-out images over the time of training")
    axis.legend()
    return figure


def render(folder: Path) -> None:
    """Write tables and plot from the stored record."""
    record = read_record(folder, "training")
    runs = group(record)
    save_plot(plot_curves(runs), folder / "training.png")
    alt = "Lines of validation errors falling over the seconds of each training"
    text = [record["machine"], "### Targets", check_targets(runs)]
    text += ["### Accuracy over time", curve_table(runs, record["rate"])]
    text += [f"![{alt}](training.png)", "### What each part costs and gives"]
    text += [part_table(record)]
    write_section(folder / "README.md", "training", "\n\n".join(text))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only-missing", action="store_true", help="keep what is done")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    parser.add_argument("--seeds", type=int, nargs="*", default=[2025, 1, 2])
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--budget", type=float, default=1_000, help="seconds a peer")
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    parser.add_argument("--images", type=int, default=55_000, help="to learn from")
    parser.add_argument("--epochs", type=int, help="at most, for a rehearsal")
    return parser.parse_args(arguments)


def run(homework: ModuleType, options: argparse.Namespace) -> None:
    """Train and measure what is asked for, and write the page's section."""
    folder, judges = options.folder, make_judges(homework)
    record = read_record(folder, "training") if options.only_missing else {}
    record |= {"machine": describe_machine(), "fit_goal": FIT_GOAL}
    _, _, digits, labels = (x[:2_000] for x in homework.load_mnist())
    shape = homework.measure_images(digits, labels)["shape"]
    record["real"] = [shape[labels == digit].mean() for digit in range(10)]
    runs = record.setdefault("runs", {})
    if "rate" not in record:
        count = min(options.images, 6_400)
        record["rate"] = measure_rate(homework, options.rounds, count)
    # in this order an interrupted run has the most of it
    first, *others = options.seeds
    jobs = [(name, first) for name in (OURS, SIMPLE, DEOTTE)]
    jobs += [(OURS, seed) for seed in others]
    jobs += [(part, first) for part in options.parts]
    jobs += [(name, seed) for seed in others for name in (SIMPLE, DEOTTE)]
    for name, seed in jobs:
        key = f"{name} | seed {seed}"
        if key not in runs:
            runs[key] = measure_training(homework, judges, name, seed, options)
            print(key, runs[key]["curve"][-1], runs[key]["test"], flush=True)
            write_record(folder, "training", record)
    render(folder)


if __name__ == "__main__":
    run(load_homework(), parse())
