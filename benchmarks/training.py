"""Compare the notebook's training with two that a user would pick instead.

    python benchmarks/training.py [--parts rate curves ingredients] [--budget SECONDS]

`rate` times training steps in turn, beside the machine's matrix products; `curves`
trains each network up to a cap on the seconds; `ingredients` leaves one part of the
notebook's training out at a time, in shortened runs. The README's section is written.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from common import (
    alternate,
    describe_machine,
    make_noise,
    make_parser,
    make_trainer,
    read_record,
    save_plot,
    spread,
    table,
    write_record,
    write_section,
)
from contestants import Task, optimize_images
from training_rate import count_step, matrix_rate

OURS, SIMPLE, DEOTTE = "the notebook", "keras.io", "Deotte"
LEVELS = (0.99, 0.993, 0.995)
# Epochs of the recipes as published, and images a batch.
EPOCHS = {SIMPLE: 15, DEOTTE: 30}
BATCHES = {SIMPLE: 128, DEOTTE: 64}
SLICES = 4  # validations an epoch, for a finer curve


def build_simple(homework: ModuleType) -> Any:
    """Return the network of keras.io's "Simple MNIST convnet" (Chollet, 2015)."""
    keras, layers = homework.keras, homework.layers
    stack = [keras.Input(homework.IMAGE_SHAPE)]
    for filters in (32, 64):
        stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dropout(0.5)]
    return keras.Sequential([*stack, layers.Dense(10, activation="softmax")])


def build_deotte(homework: ModuleType) -> Any:
    """Return the network of Deotte's "25 Million Images! [0.99757] MNIST" (2018)."""
    keras, layers = homework.keras, homework.layers
    stack = [keras.Input(homework.IMAGE_SHAPE)]
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
    keras, tf = homework.keras, homework.tf
    fill = dict(fill_mode="nearest")
    views = keras.Sequential(
        [
            keras.layers.RandomRotation(10 / 360, **fill),
            keras.layers.RandomZoom(0.1, 0.1, **fill),
            keras.layers.RandomTranslation(0.1, 0.1, **fill),
        ]
    )
    data = tf.data.Dataset.from_tensor_slices((images, labels)).repeat()
    data = data.shuffle(10_000, seed=0).batch(BATCHES[DEOTTE], drop_remainder=True)
    data = data.map(lambda x, y: (views(x, training=True), y), tf.data.AUTOTUNE)
    return data.prefetch(tf.data.AUTOTUNE)


def compile_peer(homework: ModuleType, name: str, steps: int) -> Any:
    """Return a peer's network, compiled as published; `steps` are those of an epoch."""
    keras = homework.keras
    keras.utils.set_random_seed(0)
    network = (build_simple if name == SIMPLE else build_deotte)(homework)
    rate: Any = 1e-3
    if name == DEOTTE:
        rate = keras.optimizers.schedules.ExponentialDecay(1e-3, steps, 0.95, True)
    optimizer = keras.optimizers.Adam(rate)
    loss = "sparse_categorical_crossentropy"
    network.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return network


# ----------------------------------------------------------------------------- rate


def count_peer_operations(homework: ModuleType, model: Any) -> int:
    """Return the operations of a peer's network for one image, forward."""
    layers = homework.layers
    products = (layers.Conv2D, layers.Dense)
    return 2 * sum(
        math.prod((*x.output.shape[1:-1], *x.kernel.shape))
        for x in model.layers
        if isinstance(x, products)
    )


def make_calls(
    homework: ModuleType, steps: int
) -> tuple[dict[str, Callable], dict[str, tuple[int, float]]]:
    """Return a call for each contestant that trains `steps` steps on random images.

    And for each the images of a call and their floating-point operations.
    """
    batch = homework.BATCH_SIZE
    images, labels = make_noise(homework, max(batch, *BATCHES.values()) * steps)
    ours = homework.build_network(homework.DROPOUT, 0)
    trainer = make_trainer(homework, ours)
    options = dict(batch_size=batch, verbose=0)
    calls = {
        OURS: partial(
            trainer.fit, images[: batch * steps], labels[: batch * steps], **options
        )
    }
    work = count_step(homework, ours) * steps
    amounts = {OURS: (batch * steps, work)}
    for name, batch in BATCHES.items():
        network, count = compile_peer(homework, name, steps), batch * steps
        work = 3 * count_peer_operations(homework, network) * count
        amounts[name] = count, work
        if name == SIMPLE:
            own = dict(batch_size=batch, verbose=0)
            calls[name] = partial(network.fit, images[:count], labels[:count], **own)
        else:
            data = feed_deotte(homework, images, labels)
            calls[name] = partial(network.fit, data, steps_per_epoch=steps, verbose=0)
    return calls, amounts


def measure_rate(
    homework: ModuleType, repetitions: int, steps: int, size: int
) -> dict[str, dict[str, list[float]]]:
    """Return images a second and share of the matrix-product rate, in turn."""
    calls, amounts = make_calls(homework, steps)
    products: list[float] = []
    calls = {"products": lambda: products.append(matrix_rate(size)), **calls}
    seconds = alternate(calls, repetitions)
    rates = np.array(products[1:])
    found = {"matrix products (GFLOP/s)": {"rate": rates.tolist()}}
    for name, (count, work) in amounts.items():
        own = np.array(seconds[name])
        found[name] = {
            "rate": (count / own).tolist(),
            "share": (work / own / 1e9 / rates).tolist(),
        }
    return found


# --------------------------------------------------------------------------- curves


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
            self.curve.append((self.seconds, logs["val_accuracy"]))
            self.model.stop_training |= self.seconds > budget

    return Clock()


def train_ours(
    homework: ModuleType, training: tuple, validation: tuple, epochs: int, seed: int
) -> tuple[Any, list[tuple[float, float]]]:
    """Train the notebook's network with its own function; return it and its curve."""
    clock = make_clock(homework, math.inf)
    clock.news = ""
    network = homework.build_network(homework.DROPOUT, seed)
    with patch.object(homework, "Progress", lambda: clock):
        homework.train(
            network,
            training,
            validation,
            epochs=epochs,
            batch_size=homework.BATCH_SIZE,
            learning_rate=homework.LEARNING_RATE,
            weight_decay=homework.WEIGHT_DECAY,
            seed=seed,
            distortion=homework.DISTORTION,
            attack_length=homework.ATTACK_LENGTH,
        )
    return network, clock.curve


def train_peer(
    homework: ModuleType, name: str, training: tuple, validation: tuple, budget: float
) -> tuple[Any, list[tuple[float, float]]]:
    """Train a peer as published until its epochs or the seconds are used up."""
    steps = len(training[0]) // BATCHES[name]
    network, clock = compile_peer(homework, name, steps), make_clock(homework, budget)
    options = dict(validation_data=validation, callbacks=[clock], verbose=0)
    if name == SIMPLE:
        options |= dict(batch_size=BATCHES[name], epochs=EPOCHS[name])
        network.fit(*training, **options)
    else:
        data = feed_deotte(homework, *training)
        slices = dict(steps_per_epoch=max(1, steps // SLICES))
        network.fit(data, epochs=SLICES * EPOCHS[name], **slices, **options)
    return network, clock.curve


def load_data(homework: ModuleType, count: int) -> dict[str, tuple]:
    """Return training, validation and test set, split as in the notebook."""
    pixels, labels, test_pixels, test_labels = homework.load_mnist()
    split = homework.split_stratified(labels, homework.VALIDATION_IMAGES, homework.SEED)
    kept, held_out = split[0][:count], split[1]
    return {
        "training": (homework.to_images(pixels[kept]), labels[kept]),
        "validation": (homework.to_images(pixels[held_out]), labels[held_out]),
        "test": (homework.to_images(test_pixels), test_labels),
    }


def measure_curves(
    homework: ModuleType, names: list[str], budget: float, count: int, rate: float
) -> dict[str, dict[str, Any]]:
    """Train each contestant for at most `budget` seconds; return curve and test score.

    Args:
        homework: the notebook's functions.
        names: of the contestants.
        budget: seconds of training; ours gets as many whole epochs as fit, at most
            the notebook's.
        count: images to learn from.
        rate: images a second of our training, to choose its epochs.
    """
    data = load_data(homework, count)
    sets, found = (data["training"], data["validation"]), {}
    for name in names:
        if name == OURS:
            epochs = int(np.clip(budget * rate // count, 1, homework.EPOCHS))
            network, curve = train_ours(homework, *sets, epochs, homework.SEED)
        else:
            network, curve = train_peer(homework, name, *sets, budget)
            epochs = len(curve) / (SLICES if name == DEOTTE else 1)
        answers = network.predict(data["test"][0], batch_size=500, verbose=0)
        accuracy = float(np.mean(answers.argmax(axis=1) == data["test"][1]))
        found[name] = {"epochs": epochs, "curve": curve, "test": accuracy}
        print(name, found[name], flush=True)
    return found


# ---------------------------------------------------------------------- ingredients


@contextlib.contextmanager
def leave_out(homework: ModuleType, part: str) -> Iterator[None]:
    """Take one ingredient out of the notebook's training while the block runs."""
    optimizers = homework.keras.optimizers
    adam, schedules = optimizers.AdamW, optimizers.schedules
    patches = {
        "everything": contextlib.nullcontext(),
        "without distortion": patch.object(homework, "distort", lambda x, *_: x),
        "without attack": patch.object(homework, "attack", lambda _, x, *__: x),
        "without noise mixing": patch.object(
            homework, "mix_with_noise", lambda x, targets, _: (x, targets)
        ),
        # an average with momentum 0 is the last weights
        "without averaging": patch.object(
            optimizers, "AdamW", lambda *x, **y: adam(*x, **(y | {"ema_momentum": 0.0}))
        ),
        "constant rate": patch.object(
            schedules, "CosineDecay", lambda *x, **y: y["warmup_target"] / 2
        ),
    }
    if part not in patches:
        raise ValueError(f"expected one of {', '.join(patches)}, got {part!r}")
    with patches[part]:
        yield


INGREDIENTS = (
    "everything",
    "without distortion",
    "without attack",
    "without noise mixing",
    "without averaging",
    "constant rate",
)


def measure_ingredients(
    homework: ModuleType, parts: list[str], count: int, epochs: int, seeds: int
) -> dict[str, dict[str, Any]]:
    """Train without one part at a time; return seconds, accuracy, fit and transfer."""
    from optimization import make_starts, make_task, make_yardsticks, measure

    data = load_data(homework, count)
    sets, found = (data["training"], data["validation"]), {}
    blank = make_task(homework, None)
    yardsticks = make_yardsticks(homework, blank)
    wanted, starts = make_starts(homework, seeds, first=0)
    for part in parts:
        with leave_out(homework, part):
            network, curve = train_ours(homework, *sets, epochs, homework.SEED)
        task = Task(homework, network, blank.typical, blank.digits)
        steps = homework.OPTIMIZATION_STEPS
        images = optimize_images(task, wanted, starts, steps, 0)
        entry = measure(task, yardsticks, images, wanted)
        found[part] = {"curve": curve, "fits": entry["fits"], "right": entry["right"]}
        print(part, curve[-1], np.mean(entry["right"]), flush=True)
    return found


# --------------------------------------------------------------------------- tables


def seconds_to(curve: list, level: float) -> float:
    """Return the training seconds after which the accuracy is at least `level`."""
    return min(
        (seconds for seconds, value in curve if value >= level), default=math.inf
    )


def rate_table(found: dict) -> str:
    """Return images a second and share of the matrix products' rate."""
    rows = []
    for name, entry in found.items():
        if "share" in entry:
            rows.append([name, spread(entry["rate"]), spread(entry["share"], ".0%")])
    products = spread(found["matrix products (GFLOP/s)"]["rate"])
    header = ["training", "images a second"]
    return table([*header, f"share of the matrix products' {products} GFLOP/s"], rows)


def curve_table(found: dict) -> str:
    """Return epochs, seconds to each level and accuracies."""
    rows = []
    for name, entry in found.items():
        curve = entry["curve"]
        times = [seconds_to(curve, level) for level in LEVELS]
        shown = ["not reached" if math.isinf(x) else f"{x:.0f}" for x in times]
        last, best = curve[-1], max(value for _, value in curve)
        row = [name, f"{entry['epochs']:g}", f"{last[0]:.0f}", *shown, f"{best:.2%}"]
        rows.append([*row, f"{entry['test']:.2%}"])
    levels = [f"seconds to {level:.1%}" for level in LEVELS]
    header = ["training", "epochs", "seconds in all", *levels]
    return table(
        [*header, "best validation accuracy", "test accuracy at the end"], rows
    )


def check_targets(found: dict) -> str:
    """Return a table of the targets, what was measured, and whether they are met."""
    rows = []
    ours = found[OURS]["curve"]
    for name in (SIMPLE, DEOTTE):
        for level in LEVELS:
            if name in found:
                mine = seconds_to(ours, level)
                theirs = seconds_to(found[name]["curve"], level)
                half = name == DEOTTE and level == LEVELS[-1]
                met = mine <= theirs / 2 if half else mine < theirs
                if math.isinf(mine) and math.isinf(theirs):
                    verdict = "open: neither reached it"
                elif half and math.isinf(theirs):
                    capped = 2 * mine <= found[name]["curve"][-1][0]
                    verdict = "met" if capped else "open: theirs was cut off"
                else:
                    verdict = "met" if met else "**missed**"
                goal = "in at most half the time of" if half else "before"
                shown = [
                    "not reached" if math.isinf(x) else f"{x:.0f} s"
                    for x in (mine, theirs)
                ]
                measured = f"{shown[0]} against {shown[1]}"
                rows.append([f"{level:.1%} {goal} {name}", measured, verdict])
    return table(["target", "measured", ""], rows)


def ingredient_table(found: dict, goal: float) -> str:
    """Return what each ingredient costs and gives."""
    whole = found.get("everything")
    rows = []
    for part, entry in found.items():
        seconds, accuracy = entry["curve"][-1]
        against = "" if whole is None else f"{seconds / whole['curve'][-1][0]:.2f}"
        reached = f"{np.mean(np.array(entry['fits']) <= goal):.0%}"
        transfer = f"{np.mean(entry['right']):.1%}"
        rows.append(
            [part, f"{seconds:.0f}", against, f"{accuracy:.2%}", reached, transfer]
        )
    header = ["training", "seconds", "of everything's", "validation accuracy"]
    return table([*header, f"fit within {goal:g}", "transfer"], rows)


def plot_curves(found: dict) -> Any:
    """Return a figure of the validation error over the seconds of training."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.8, len(found)))
    for color, marker, (name, entry) in zip(colors, "os^", found.items(), strict=False):
        seconds, values = np.transpose(entry["curve"])
        errors = 100 * (1 - values).clip(1e-4)
        axis.plot(seconds, errors, marker + "-", color=color, ms=4, label=name)
    for level in LEVELS:
        axis.axhline(100 * (1 - level), color="gray", linewidth=0.8, linestyle=":")
        place = dict(xy=(1.01, 100 * (1 - level)), xycoords=("axes fraction", "data"))
        axis.annotate(f"{level:.1%} right", fontsize=8, va="center", **place)
    axis.set(xlabel="seconds of training", ylabel="validation errors (%)", yscale="log")
    axis.set_title("Errors on 5,000 held-out images over the time of training")
    axis.legend()
    return figure


def render(folder: Path, homework: ModuleType) -> None:
    """Write tables and plot from the stored record."""
    record = read_record(folder, "training")
    text = [f"Machine: {record['machine']}"]
    if "curves" in record:
        found, plot = record["curves"], "training.png"
        save_plot(plot_curves(found), folder / plot)
        cap = f"Capped at {record['budget']:.0f} seconds of training, one seed."
        alt = "Lines of validation errors falling over the seconds of each training"
        text += ["### Targets", check_targets(found), "### Accuracy over time", cap]
        text += [curve_table(found), f"![{alt}]({plot})"]
    if "rate" in record:
        text += ["### Speed", rate_table(record["rate"])]
    if "ingredients" in record:
        text += ["### What each ingredient costs and gives", record["shortened"]]
        text += [ingredient_table(record["ingredients"], homework.FIT_GOAL)]
    write_section(folder / "README.md", "training", "\n\n".join(text))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__)
    parts, names = ["rate", "curves", "ingredients"], [OURS, SIMPLE, DEOTTE]
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--contestants", nargs="*", choices=names, default=names)
    parser.add_argument(
        "--budget", type=float, default=100, help="seconds of each curve"
    )
    parser.add_argument("--images", type=int, default=55_000, help="to learn from")
    parser.add_argument("--steps", type=int, default=30, help="training steps timed")
    parser.add_argument("--size", type=int, default=2048, help="side of the matrices")
    parser.add_argument("--ingredients", nargs="*", default=list(INGREDIENTS))
    parser.add_argument("--ingredient-images", type=int, default=20_000)
    parser.add_argument("--ingredient-epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="optimized images a digit")
    return parser.parse_args(arguments)


def run(homework: ModuleType, options: argparse.Namespace) -> None:
    """Measure what is asked for, and write the README's section."""
    folder = options.folder
    record = read_record(folder, "training") | {"machine": describe_machine()}
    if "rate" in options.parts:
        amount = options.repetitions, options.steps, options.size
        record["rate"] = measure_rate(homework, *amount)
        write_record(folder, "training", record)
    if "curves" in options.parts:
        rates = record.get("rate", {}).get(OURS, {"rate": [1e9]})["rate"]
        amount = options.budget, options.images, float(np.median(rates))
        found = measure_curves(homework, options.contestants, *amount)
        record["curves"] = record.get("curves", {}) | found
        record["budget"] = options.budget
        write_record(folder, "training", record)
    if "ingredients" in options.parts:
        images, epochs = options.ingredient_images, options.ingredient_epochs
        amount = images, epochs, options.seeds
        found = measure_ingredients(homework, options.ingredients, *amount)
        record["ingredients"] = found
        record["shortened"] = (
            f"Shortened runs, one seed: {epochs} epochs on {images:,} images. Transfer "
            f"is that of {10 * options.seeds} images found by `optimize_images`."
        )
        write_record(folder, "training", record)
    render(folder, homework)


if __name__ == "__main__":
    from notebook import find_homework, import_functions

    run(import_functions(find_homework()), parse())
