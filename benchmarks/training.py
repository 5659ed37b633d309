"""Compare the notebook's training with three that one would pick instead.

    python benchmarks/training.py --minutes 110

Trains the notebook's network, without one of its parts as well, and keras.io's,
Deotte's and ttdoucet's, with several seeds each. A training takes one core, and several
run side by side. Each is kept when it ends: no new one is begun after so many minutes,
and the next call goes on with what is missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import recipes
from common import (
    FOLDER,
    MEASURES,
    describe_gain,
    describe_images,
    describe_record,
    digest,
    find_fits,
    find_missing,
    interval,
    keep_row,
    load_homework,
    make_starts,
    measure,
    measure_real,
    read_record,
    save_plot,
    table,
    write_section,
)
from recipes import (
    BATCH,
    BUDGETS,
    DEOTTE,
    EPOCHS,
    KERAS_IO,
    OURS,
    PARTS,
    READINGS,
    RESIDUAL,
)

SEEDS = {OURS: 5, KERAS_IO: 5, DEOTTE: 3, RESIDUAL: 3} | dict.fromkeys(PARTS, 3)
JOBS = [(name, 1 + i) for name, count in SEEDS.items() for i in range(count)]
JOBS.sort(key=lambda job: job[1])  # one seed after the other
IMAGES = 200  # found for every network of ours, the digits in turn


def find_version(homework: ModuleType, name: str, amounts: tuple) -> str:
    """Return a digest of what a training depends on."""
    if name in EPOCHS:
        return digest(recipes, homework.load_mnist, homework.split_digits, amounts)
    return digest(recipes, homework, measure_training, measure, find_fits, amounts)


def measure_training(
    name: str, seed: int, images: int, epochs: int, budget: float
) -> dict[str, Any]:
    """Train one network; return its curve, test accuracy, version and images measured.

    Images are found with the notebook's networks, whole or without a part.
    """
    homework = load_homework()
    version = find_version(homework, name, (images, epochs, budget))
    digits, labels, test_digits, test_labels = homework.load_mnist()
    training, validation = homework.split_digits(digits, labels, seed, images)
    clock = recipes.make_clock(homework, validation, budget)
    train = recipes.train_peer if name in EPOCHS else recipes.train_ours
    epochs = epochs or EPOCHS.get(name, homework.EPOCHS)
    network = train(homework, name, training, epochs, seed, clock)
    answers = network.predict(test_digits, batch_size=500, verbose=0).argmax(axis=1)
    row = {"version": version, "curve": clock.curve}
    row["test"] = float(np.mean(answers == test_labels))
    if name in EPOCHS:
        return row
    judges = homework.train_judges(digits, np.eye(10, dtype="float32")[labels])
    wanted, starts = make_starts(homework, IMAGES)
    prior, targets = homework.make_prior(digits), np.eye(10)[wanted]
    found = homework.find_images(network, prior, targets, starts, 0, homework.STEPS)
    real = measure_real(homework)
    return row | measure(homework, judges, real, network, found["images"], wanted)


# ----------------------------------------------------------------------- the tables


def reached(row: dict, budget: float) -> float:
    """Return the last validation accuracy noted within a budget, in percent."""
    return 100 * [point[3] for point in row["curve"] if point[0] <= budget][-1]


def group(rows: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """Return the rows of each training by their seeds, in the order of SEEDS."""
    groups: dict[str, dict[str, dict]] = {name: {} for name in SEEDS}
    for key in sorted(rows):
        name, seed = key.split(" | ")
        groups[name][seed] = rows[key]
    return {name: runs for name, runs in groups.items() if runs}


def budget_table(groups: dict) -> str:
    """Return the mean validation accuracy of each training within the budgets."""
    rows = []
    for name in (name for name in groups if name not in PARTS):
        runs = groups[name].values()
        means = [np.mean([reached(run, budget) for run in runs]) for budget in BUDGETS]
        rows.append([name, len(runs), *(f"{mean:.2f} %" for mean in means)])
    header = [f"within {budget:,} s" for budget in BUDGETS]
    return table(["training", "seeds", *header], rows)


def end_table(groups: dict) -> str:
    """Return where each training ended, and how many images it took in a second."""
    rows = []
    for name in (name for name in groups if name not in PARTS):
        runs = groups[name].values()
        first = np.array([run["curve"][0][1:3] for run in runs])
        ends = np.array([run["curve"][-1][1:3] for run in runs])
        seconds, steps = (ends - first).T  # what is traced at first is left out
        epochs = np.mean(ends[:, 1]) * BATCH[name] / 55_000
        rate = f"{np.mean(BATCH[name] * steps / np.maximum(seconds, 1e-9)):,.0f}"
        tests = ", ".join(f"{run['test']:.2%}" for run in runs)
        row = [name, f"{np.mean(ends[:, 0]):,.0f}", f"{epochs:.1f}"]
        rows.append([*row, EPOCHS.get(name, "as delivered"), rate, tests])
    header = ["training", "seconds", "epochs", "published", "images a second"]
    return table([*header, "test accuracy at the end, seed by seed"], rows)


def pair_table(groups: dict) -> str:
    """Return by how much ours is ahead of each peer, seed by seed, and what that tells.

    In points of validation accuracy; the seeds of a pair hold out the same images.
    """
    rows, ours = [], groups.get(OURS, {})
    for name in EPOCHS:
        seeds, before = sorted(ours.keys() & groups.get(name, {}).keys()), []
        for budget in BUDGETS if len(seeds) > 2 else ():
            pairs = [(ours[seed], groups[name][seed]) for seed in seeds]
            gains = [reached(x, budget) - reached(y, budget) for x, y in pairs]
            if gains == before:  # both have ended
                continue
            _, low, high = interval(gains)
            words = "ours" if low > 0 else name if high < 0 else "no order can be told"
            each = ", ".join(f"{gain:+.2f}" for gain in gains)
            rows.append([name, f"{budget:,}", each, describe_gain(gains, ".2f"), words])
            before = gains
    header = ["ours against", "seconds", "points ahead, seed by seed"]
    return table([*header, "mean (95 % interval)", "ahead"], rows)


def part_table(groups: dict) -> str:
    """Return what the notebook's training gives, whole and without each part."""
    rows = []
    for name in (OURS, *PARTS):
        for seed, row in groups.get(name, {}).items():
            worst = int(np.argmin(row["shape"]))
            figures = [f"{row['curve'][-1][3]:.2%}", f"{row['test']:.2%}"]
            figures += [f"{row['fit']:.0%}", *describe_images(row)]
            figures += [f"{row['shape'][worst]:.2f} ({worst})"]
            title = "everything" if name == OURS else name
            rows.append([title, seed, *figures])
    header = ["training", "seed", "validation", "test", "fit", *MEASURES]
    return table([*header, "worst shape (digit)"], rows)


def loss_table(groups: dict) -> str:
    """Return by how many points the training with everything is ahead of each part."""
    rows, whole = [], groups.get(OURS, {})
    for name in PARTS:
        seeds = sorted(whole.keys() & groups.get(name, {}).keys())
        pairs = [(whole[seed], groups[name][seed]) for seed in seeds]
        if len(pairs) > 2:
            gains = [[reached(x, np.inf) - reached(y, np.inf) for x, y in pairs]]
            for figure in ("judges", "shape"):
                means = [[np.mean(run[figure]) for run in pair] for pair in pairs]
                gains.append([100 * (x - y) for x, y in means])
            texts = map(describe_gain, gains, (".2f", ".1f", ".1f"))
            rows.append([name, len(pairs), *texts])
    header = ["everything is ahead of", "seeds", "points of validation accuracy"]
    return table([*header, "points of judges", "points of shape"], rows)


def plot_curves(groups: dict) -> Any:
    """Return a figure of the validation error over the time of training."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    names = [name for name in SEEDS if name not in PARTS]
    colors = plt.get_cmap("viridis")([0, 0.35, 0.65, 0.9])
    for color, marker, name in zip(colors, "os^v", names, strict=True):
        for number, row in enumerate(groups.get(name, {}).values()):
            _, seconds, _, accuracies = np.transpose(row["curve"])
            errors = 100 * (1 - accuracies).clip(1e-4)
            label = None if number else name
            axis.plot(seconds, errors, marker + "-", color=color, ms=3, label=label)
    axis.set(xlabel="processor seconds of training", xscale="log", yscale="log")
    axis.set_xticks(READINGS[::2], READINGS[::2])
    axis.set_yticks([0.3, 0.5, 1, 2, 5, 10], [0.3, 0.5, 1, 2, 5, 10])
    axis.minorticks_off()
    axis.set_ylabel("validation errors (%)")
    axis.set_title("Errors on 5,000 held-out images over the time of training")
    if groups:
        axis.legend()
    return figure


def render(folder: Path, versions: dict[str, str]) -> None:
    """Write tables and plot from the stored rows."""
    rows = read_record(folder, "training")["rows"]
    groups = group(rows)
    save_plot(plot_curves(groups), folder / "training.png")
    alt = "Lines of validation errors falling over the seconds of each training"
    text = [describe_record(rows, versions)]
    text += ["### What is reached within a time", budget_table(groups)]
    text += ["### Ours against each, seed by seed", pair_table(groups)]
    text += ["### Where each ended", end_table(groups), f"![{alt}](training.png)"]
    text += ["### The notebook's training without one of its parts"]
    text += [loss_table(groups), part_table(groups)]
    write_section(folder / "README.md", "training", "\n\n".join(text))


# ------------------------------------------------------------------------------ run


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=110, help="to begin new ones")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="at once")
    rehearsal = parser.add_argument_group("for a rehearsal")
    rehearsal.add_argument("--images", type=int, default=55_000, help="to learn from")
    rehearsal.add_argument("--epochs", type=int, default=0, help="of each")
    return parser.parse_args(arguments)


def find_versions(homework: ModuleType, options: argparse.Namespace) -> dict[str, str]:
    """Return the version that each training would have now."""
    amounts = options.images, options.epochs, BUDGETS[-1]
    return {f"{x} | {seed}": find_version(homework, x, amounts) for x, seed in JOBS}


def run(options: argparse.Namespace) -> None:
    """Make the trainings that are missing, and write the page's section."""
    versions = find_versions(load_homework(), options)
    missing = find_missing(read_record(options.folder, "training")["rows"], versions)
    end = time.monotonic() + 60 * options.minutes
    amounts = options.images, options.epochs, BUDGETS[-1]
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
    # a new process each: TensorFlow keeps memory of every training
    context = multiprocessing.get_context("spawn")
    workers = options.workers
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        running = {}
        while running or (missing and time.monotonic() < end):
            while missing and len(running) < workers and time.monotonic() < end:
                key = missing.pop(0)
                name, seed = key.split(" | ")
                running[pool.submit(measure_training, name, int(seed), *amounts)] = key
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                try:
                    row = future.result()
                except Exception as error:  # the others go on
                    print(f"{key} failed: {error!r}", flush=True)
                    continue
                keep_row(options.folder, "training", key, row)
                print(key, row["curve"][-1], row["test"], flush=True)
    render(options.folder, versions)


if __name__ == "__main__":
    run(parse())
