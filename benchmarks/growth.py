"""Measure how time and memory grow: more images, more steps, a wider network.

    python benchmarks/growth.py [--parts images steps memory width]

Prints into the README how many seconds and how much memory `optimize_images` takes for
1 to 1,000 images and for 50 to 1,000 steps, and a training step for 1 to 4 times the
channels, with the exponent of the power law that fits the larger half of the sizes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import (
    alternate,
    describe_machine,
    make_noise,
    make_parser,
    make_trainer,
    peak_memory,
    read_record,
    save_plot,
    slope,
    spread,
    table,
    write_record,
    write_section,
)
from contestants import Task, optimize_images

UNITS = {
    "images": ("images", "seconds"),
    "steps": ("steps", "seconds"),
    "memory of images": ("images", "MB above the loaded model"),
    "memory of steps": ("steps", "MB above the loaded model"),
    "width": ("times the channels", "seconds a training step"),
}


def make_call(homework: ModuleType, model: Any, images: int, steps: int) -> partial:
    """Return a call of `optimize_images` that needs no data."""
    task = Task(homework, model, np.ones((2, homework.CLASSES, 3)), np.empty(0))
    starts = homework.make_starts("uniform", np.arange(images))
    labels = np.arange(images) % homework.CLASSES
    return partial(optimize_images, task, labels, starts, steps, 0)


def widen(homework: ModuleType, factor: int) -> Any:
    """Return the notebook's network with `factor` times the channels and units."""
    keras = homework.keras
    network = homework.build_network(homework.DROPOUT, homework.SEED)

    def copy(layer: Any) -> Any:
        settings = layer.get_config()
        for name in ("filters", "units"):
            if name in settings and layer.name != "logits":
                settings[name] *= factor
        return type(layer).from_config(settings)

    return keras.models.clone_model(network, clone_function=copy)


def make_training(homework: ModuleType, factor: int, steps: int) -> partial:
    """Return `steps` steps of the notebook's training with a widened network."""
    batch = homework.BATCH_SIZE
    trainer = make_trainer(homework, widen(homework, factor))
    data = make_noise(homework, batch * steps)
    return partial(trainer.fit, *data, batch_size=batch, verbose=0)


def weigh(homework: ModuleType, images: int, steps: int) -> float:
    """Return by how many MB one call raises this process's peak memory."""
    model, _ = homework.load_model(homework.MODEL_FILE)
    make_call(homework, model, 1, 2)()
    call = make_call(homework, model, images, steps)
    before = peak_memory()
    call()
    return peak_memory() - before


def weigh_apart(images: int, steps: int) -> float:
    """Return what `weigh` returns, measured in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--weigh"]
    command += [str(images), str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    homework: ModuleType, part: str, options: argparse.Namespace
) -> dict[str, dict]:
    """Return for what grows in a part the sizes and a list of values for each size."""
    model, _ = homework.load_model(homework.MODEL_FILE)
    found = {}

    def time_all(name: str, calls: dict[int, Any], share: float = 1.0) -> None:
        seconds = alternate({str(size): call for size, call in calls.items()}, repeat)
        values = [[share * x for x in seconds[str(size)]] for size in calls]
        found[name] = {"sizes": list(calls), "values": values}

    repeat = options.repetitions
    if part == "images":
        steps = options.steps
        time_all(
            "images", {n: make_call(homework, model, n, steps) for n in options.images}
        )
        found["images"]["fixed"] = f"{steps} steps"
    if part == "steps":
        time_all(
            "steps", {n: make_call(homework, model, 10, n) for n in options.many_steps}
        )
        found["steps"]["fixed"] = "10 images"
    if part == "memory":  # of every other size, each in a process of its own
        few, steps = options.images[::2], options.many_steps[::2]
        values = [[weigh_apart(n, options.steps)] for n in few]
        found["memory of images"] = {"sizes": few, "values": values}
        found["memory of images"]["fixed"] = f"{options.steps} steps"
        values = [[weigh_apart(10, n)] for n in steps]
        found["memory of steps"] = {"sizes": steps, "values": values}
        found["memory of steps"]["fixed"] = "10 images"
    if part == "width":
        steps = options.training_steps
        calls = {n: make_training(homework, n, steps) for n in options.widths}
        time_all("width", calls, 1 / steps)
        found["width"]["fixed"] = f"batch {homework.BATCH_SIZE}"
    return found


def exponent(entry: dict) -> float:
    """Return the slope on logarithmic axes over the larger half of the sizes."""
    half = len(entry["sizes"]) // 2 if len(entry["sizes"]) > 3 else 0
    medians = np.median(entry["values"], axis=1)[half:]
    return slope(entry["sizes"][half:], medians.clip(1e-6))


def plot(record: dict) -> Any:
    """Return a figure with a panel for each part, both axes logarithmic."""
    import matplotlib.pyplot as plt

    parts = [name for name in UNITS if name in record]
    figure, axes = plt.subplots(
        1, len(parts), figsize=(3 * len(parts), 3), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], parts, strict=True):
        entry, (size, value) = record[name], UNITS[name]
        middle = np.median(entry["values"], axis=1).clip(1e-3)
        low, high = np.min(entry["values"], axis=1), np.max(entry["values"], axis=1)
        errors = [(middle - low).clip(0), (high - middle).clip(0)]
        axis.errorbar(entry["sizes"], middle, errors, fmt="o-", color="black", ms=4)
        axis.set(xscale="log", yscale="log", xlabel=size, ylabel=value)
        title = f"{name.capitalize()} ({entry['fixed']}),\nslope {exponent(entry):.2f}"
        axis.set_title(title, fontsize="medium")
        axis.grid(alpha=0.4)
        axis.minorticks_off()
        axis.set_xticks(entry["sizes"], entry["sizes"], rotation=45)
        axis.yaxis.set_major_formatter("{x:g}")
        if max(middle) < 30 * min(middle):
            ticks = sorted({float(f"{x:.2g}") for x in (min(middle), max(middle))})
            axis.set_yticks(ticks)
    return figure


def render(folder: Path) -> None:
    """Write table and plot from the stored record."""
    record = read_record(folder, "growth")
    rows = []
    for name in UNITS:
        if name in record:
            entry, (size, value) = record[name], UNITS[name]
            form = ".0f" if "MB" in value else ".3f"
            for index, (number, values) in enumerate(
                zip(entry["sizes"], entry["values"], strict=True)
            ):
                shown = (
                    spread(values, form) if len(values) > 1 else f"{values[0]:{form}}"
                )
                slopes = f"{exponent(entry):.2f}" if index == 0 else ""
                what = f"{name}, {entry['fixed']}" if index == 0 else ""
                rows.append([what, f"{number} {size}", f"{shown} {value}", slopes])
    save_plot(plot(record), folder / "growth.png")
    shown = (
        "Charts on logarithmic axes: time and memory over images and steps, time of a"
    )
    text = [
        f"Machine: {record['machine']}",
        table(["what grows", "size", "measured", "slope"], rows),
        f"![{shown} training step over width](growth.png)",
    ]
    write_section(folder / "README.md", "growth", "\n\n".join(text))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__)
    parts = ["images", "steps", "memory", "width"]
    whole = dict(nargs="*", type=int)
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--images", **whole, default=[1, 3, 10, 30, 100, 300, 1000])
    parser.add_argument("--many-steps", **whole, default=[50, 100, 200, 500, 1000])
    parser.add_argument("--widths", **whole, default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=10, help="where images grow")
    parser.add_argument("--training-steps", type=int, default=6)
    parser.add_argument("--weigh", nargs=2, type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(homework: ModuleType, options: argparse.Namespace) -> None:
    """Measure, and write the README's section."""
    if options.weigh:
        print(json.dumps(weigh(homework, *options.weigh)))
        return
    record = read_record(options.folder, "growth") | {"machine": describe_machine()}
    for part in options.parts:
        record |= measure(homework, part, options)
        write_record(options.folder, "growth", record)
    render(options.folder)


if __name__ == "__main__":
    from notebook import find_homework, import_functions

    run(import_functions(find_homework()), parse())
