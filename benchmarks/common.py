"""What the benchmarks share: the notebook, its judges, timing in turn, the page."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import numpy as np
from notebooks import ROOT, find_homework, import_functions, replace_file

FOLDER = ROOT / "benchmarks"
FIT_GOAL = -math.log(0.99)  # nats: the notebook's gap of 0.01, for a digit


def load_homework() -> ModuleType:
    """Return the functions and settings of the notebook, working in its folder."""
    os.chdir(ROOT)
    homework = import_functions(find_homework())
    homework.matplotlib.use("Agg")
    return homework


# ------------------------------------------------------------------- images, measured


class Judges(NamedTuple):
    """What measures images: see `measure`.

    Attributes:
        homework: the notebook's functions.
        networks: the notebook's judges, dense and recurrent.
        real: what `measure_images` of the notebook returns for real digits.
    """

    homework: ModuleType
    networks: list
    real: dict[str, np.ndarray]


def make_judges(homework: ModuleType) -> Judges:
    """Return the notebook's two judges, and its measures of real digits."""
    digits, labels, _, _ = homework.load_mnist()
    layers, targets = homework.layers, np.eye(10, dtype="float32")[labels]
    dense = [layers.Flatten(), layers.Dense(256, activation="relu")]
    bodies = dense, [layers.Reshape((28, 28)), layers.GRU(64)]
    networks = [homework.train_judge(body, digits, targets) for body in bodies]
    real = homework.measure_images(digits[-5_000:], labels[-5_000:])
    return Judges(homework, networks, real)


def measure(
    judges: Judges, network: Any, images: np.ndarray, wanted: np.ndarray
) -> dict[str, list[float]]:
    """Return for each of the images (n, 28, 28, 1), rounded to 8 bits, six figures.

    `fit` in nats; `transfer`, the share of the two judges that read the wanted digit;
    `shape` and `one piece`, 0 or 1; `gray`, the share of gray pixels among the inked
    ones; `spread`, the mean distance to the other images of its digit as a share of
    that between real ones.
    """
    homework, networks, real = judges
    images = np.round(images * 255).astype("float32") / 255
    targets = np.eye(10, dtype="float32")[wanted]
    logits = network.predict(images, batch_size=100, verbose=0)
    measures = homework.measure_images(images, wanted)
    inked = images > 0.1
    gray = (inked & (images < 0.9)).sum(axis=(1, 2, 3)) / inked.sum(axis=(1, 2, 3))
    spread = np.empty(len(images))
    for digit in np.unique(wanted):
        own = images[wanted == digit]
        gaps = np.linalg.norm(own[:, None] - own, axis=(2, 3)).sum(axis=(1, 2))
        spread[wanted == digit] = gaps / max(len(own) - 1, 1) / real["spread"][digit]
    figures = {
        "fit": homework.divergence(targets, logits).numpy(),
        "transfer": homework.ask_judges(networks, images, wanted).mean(axis=0),
        "shape": measures["shape"],
        "one piece": measures["one piece"],
        "gray": np.nan_to_num(gray),
        "spread": spread,
    }
    return {name: np.round(x.astype(float), 6).tolist() for name, x in figures.items()}


# ------------------------------------------------------------------ time and chance


def alternate(
    calls: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of calls made in turn, after a round that does not count."""
    seconds = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def bootstrap(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of paired differences (n,) and its 95 % percentile interval."""
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(differences), (10_000, len(differences)))
    low, high = np.quantile(differences[chosen].mean(axis=1), [0.025, 0.975])
    return float(np.mean(differences)), float(low), float(high)


def median_and_range(values: Sequence[float], form: str = ",.0f") -> str:
    """Return the median and, in brackets, the smallest and largest value as text."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def describe_machine() -> str:
    """Return processor, cores and versions as one sentence."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(x for x in lines if "model name" in x).split(": ")[1]
    versions = [f"{name} {version(name)}" for name in ("tensorflow", "keras", "numpy")]
    return (
        f"Machine: {processor}, {os.cpu_count()} cores, no GPU used; Python "
        f"{platform.python_version()}, {', '.join(versions)}."
    )


# --------------------------------------------------------------- records and the page


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; every cell is turned into text as it is."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def judge_target(target: str, measured: str, met: bool) -> list[str]:
    """Return a row of a table of targets."""
    return [target, measured, "met" if met else "**missed**"]


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands in a Markdown file between the two markers of a section.

    Raises:
        ValueError: if the file has not exactly one pair of these markers.
    """
    begin, end = f"<!-- {name}: written by the program -->", f"<!-- end of {name} -->"
    old = path.read_text(encoding="utf-8")
    head, found, rest = old.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found or not found_end or begin in rest or end in tail:
        raise ValueError(
            f"expected one pair of markers '{begin}' and '{end}' in {path.name}: "
            "put them back where the section belongs"
        )
    replace_file(path, f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}".encode())


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """Return what `write_record` wrote, or an empty dictionary."""
    path = folder / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_record(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Write measured figures to `results/name.json`."""
    text = json.dumps(record) + "\n"
    replace_file(folder / "results" / f"{name}.json", text.encode())


def save_plot(figure: Any, path: Path) -> None:
    """Write a figure as PNG in one step, and close it."""
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100, bbox_inches="tight")
    replace_file(path, content.getvalue())
    plt.close(figure)
