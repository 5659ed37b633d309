"""What the benchmarks share: the machine, alternating timings, tables, the README."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "tools"))

PACKAGES = ("tensorflow", "keras", "numpy")


def describe_machine() -> str:
    """Return processor, cores, memory and versions as one sentence."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    vectors = ""
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        facts = dict(
            map(str.strip, line.split(":", 1)) for line in lines if ":" in line
        )
        processor = facts.get("model name", processor)
        flags = facts.get("flags", "").split()
        vectors = next((f" with {x}" for x in ("avx512f", "avx2") if x in flags), "")
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{processor}{vectors}, {os.cpu_count()} cores, no GPU used; "
        f"Python {platform.python_version()}, {versions}."
    )


def peak_memory() -> float:
    """Return the most memory this process has held so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says on Linux begins with the parent's peak
        lines = status.read_text(encoding="utf-8").splitlines()
        held = next(line for line in lines if line.startswith("VmHWM"))
        return int(held.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def alternate(
    tasks: Mapping[str, Callable[[], Any]], repetitions: int
) -> dict[str, list[float]]:
    """Time each task in turn, round after round, after one round that does not count.

    Returns:
        For each task the seconds of every repetition.
    """
    for task in tasks.values():
        task()
    seconds = {name: [] for name in tasks}
    for _ in range(repetitions):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Return the median and, in brackets, the smallest and largest value as text."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the exponent k of the power law `value ~ size**k`, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def bootstrap(
    differences: np.ndarray, draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95 % percentile interval.

    Args:
        differences: (n,), one for each pair; the pairs are resampled.
        draws: number of resamples.
        seed: seed of the draws.
    """
    chosen = np.random.default_rng(seed).integers(
        0, len(differences), (draws, len(differences))
    )
    low, high = np.quantile(differences[chosen].mean(axis=1), [0.025, 0.975])
    return float(np.mean(differences)), float(low), float(high)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; every cell is turned into text as it is."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def replace_file(path: Path, text: str) -> None:
    """Write a text file in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_section(path: Path, name: str, text: str) -> None:
    """Replace what stands in a Markdown file between the two markers of a section.

    Raises:
        ValueError: The file has not exactly one pair of these markers.
    """
    begin, end = f"<!-- {name}: written by the program -->", f"<!-- end of {name} -->"
    old = path.read_text(encoding="utf-8")
    if (
        old.count(begin) != 1
        or old.count(end) != 1
        or old.index(begin) > old.index(end)
    ):
        raise ValueError(
            f"expected one pair of markers '{begin}' and '{end}' in {path.name}: "
            "put them back where the section belongs"
        )
    head, rest = old.split(begin)
    replace_file(path, f"{head}{begin}\n\n{text.strip()}\n\n{end}{rest.split(end)[1]}")


def read_record(folder: Path, name: str) -> dict:
    """Return what `write_record` wrote, or an empty dictionary."""
    path = folder / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_record(folder: Path, name: str, record: dict) -> None:
    """Write measured figures to `results/name.json`."""
    text = json.dumps(record, indent=1, default=np.ndarray.tolist)
    replace_file(folder / "results" / f"{name}.json", text + "\n")


def save_plot(figure: Any, path: Path) -> None:
    """Write a figure as PNG in one rename, and close it."""
    import matplotlib.pyplot as plt

    temporary = path.with_name(path.name + ".tmp")
    try:
        figure.savefig(temporary, format="png", dpi=100)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)


def make_trainer(homework: ModuleType, network: Any) -> Any:
    """Return the notebook's trainer of a network, compiled to be timed."""
    keras = homework.keras
    ways = dict(distortion=homework.DISTORTION, attack_length=homework.ATTACK_LENGTH)
    trainer = homework.RobustTrainer(network, 10_000, 0, **ways)
    optimizer = keras.optimizers.AdamW(
        weight_decay=homework.WEIGHT_DECAY, global_clipnorm=1.0, use_ema=True
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return trainer


def make_noise(homework: ModuleType, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random images (count, 28, 28, 1) and labels (count,) to time with."""
    random = np.random.default_rng(0)
    images = random.random((count, *homework.IMAGE_SHAPE), np.float32)
    return images, random.integers(0, homework.CLASSES, count)


def make_parser(text: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser
