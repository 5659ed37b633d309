"""What the benchmarks share: the notebook, measures of images, records, the page."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the page is about processors
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import numpy as np
from notebooks import ROOT, find_homework, import_functions, replace_file
from scipy import stats

FOLDER = ROOT / "benchmarks"
FIT_GOAL = -math.log(0.99)  # nats: the notebook's gap of 0.01, for a digit


def load_homework() -> ModuleType:
    """Return the functions and settings of the notebook, working in its folder."""
    os.chdir(ROOT)
    return import_functions(find_homework())


def digest(*parts: object) -> str:
    """Return a short digest: of code its lines but comments, of files their content.

    Anything else is taken as Python writes it.
    """
    content = []
    for part in parts:
        part = getattr(part, "func", part)  # of what `partial` made
        if isinstance(part, Path):
            content.append(part.read_bytes())
        elif callable(part) or isinstance(part, ModuleType):
            lines = inspect.getsource(part).splitlines()
            code = (line for line in lines if not line.lstrip().startswith("#"))
            content.append("\n".join(code).encode())
        else:
            content.append(repr(part).encode())
    return hashlib.sha256(b"".join(content)).hexdigest()[:16]


# ------------------------------------------------------------------- images, measured


def make_starts(homework: ModuleType, count: int, first_seed: int = 0) -> tuple:
    """Return wanted digits (count,), 0 to 9 in turn, and a random start for each."""
    starts = homework.random_images(first_seed + np.arange(count))
    return np.arange(count) % 10, starts


def measure_real(homework: ModuleType) -> dict[str, np.ndarray]:
    """Return what the notebook's `measure_images` finds for real digits."""
    digits, labels, _, _ = homework.load_mnist()
    return homework.measure_images(digits[:5_000], labels[:5_000])


def find_fits(
    homework: ModuleType, network: Any, images: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return which images, rounded to 8 bits, are within the goal for their digits."""
    images = np.round(images * 255).astype("float32") / 255
    logits = network.predict(images, batch_size=100, verbose=0)
    targets = np.eye(10, dtype="float32")[wanted]
    return homework.divergence(targets, logits).numpy() <= FIT_GOAL


def measure(
    homework: ModuleType,
    judges: list,
    real: dict,
    network: Any,
    images: np.ndarray,
    wanted: np.ndarray,
) -> dict[str, Any]:
    """Return the notebook's measures of images (n, 28, 28, 1), rounded to 8 bits.

    `fit` is the share of images within the goal. The others are the means of each
    digit (10,): `judges`, the share of the judges' answers that name the digit,
    `shape`, `one piece`, `spread` and `thick`; `gray` is of all images.
    """
    images = np.round(images * 255).astype("float32") / 255
    found = homework.measure_images(images, wanted, real)
    found["judges"] = homework.ask_judges(judges, images, wanted).mean(axis=0)
    for name in ("judges", "shape", "one piece"):
        found[name] = [found[name][wanted == digit].mean() for digit in range(10)]
    found["fit"] = np.mean(find_fits(homework, network, images, wanted))
    return {name: np.round(x, 4).tolist() for name, x in found.items()}


MEASURES = ("judges", "shape", "one piece", "gray", "spread", "thick")


def describe_images(found: dict) -> list[str]:
    """Return the means of `MEASURES` as text, as the notebook writes them."""
    forms = ("{:.1%}", "{:.1%}", "{:.1%}", "{:.2f}", "{:.2f}", "{:.2f}")
    pairs = zip(forms, MEASURES, strict=True)
    return [form.format(np.mean(found[name])) for form, name in pairs]


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95 % interval (Student's t)."""
    mean, error = np.mean(differences), stats.sem(differences)
    half = error * stats.t.ppf(0.975, len(differences) - 1)
    return float(mean), float(mean - half), float(mean + half)


def describe_gain(differences: Sequence[float], form: str) -> str:
    """Return the mean of paired differences, and its interval if they differ."""
    mean, low, high = (f"{x:+{form}}" for x in interval(differences))
    return f"all {mean}" if np.ptp(differences) == 0 else f"{mean} ({low} to {high})"


# --------------------------------------------------------------- records and the page


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; every cell is turned into text as it is."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def describe_machine() -> str:
    """Return processor, cores and versions as one sentence."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(x for x in lines if "model name" in x).split(": ")[1]
    names = "tensorflow", "keras", "numpy"
    versions = [f"{name} {metadata.version(name)}" for name in names]
    return (
        f"Machine: {processor}, {os.cpu_count()} cores, no GPU used; Python "
        f"{platform.python_version()}, {', '.join(versions)}."
    )


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
    """Return what `write_record` wrote, or a record without rows."""
    path = folder / "results" / f"{name}.json"
    stored = path.read_text(encoding="utf-8") if path.exists() else '{"rows": {}}'
    return json.loads(stored)


def write_record(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Write measured figures to `results/name.json`."""
    text = json.dumps(record) + "\n"
    replace_file(folder / "results" / f"{name}.json", text.encode())


def keep_row(folder: Path, name: str, key: str, row: dict[str, Any]) -> None:
    """Add a row to a record, with the machine that it was measured on."""
    record = read_record(folder, name)
    record["rows"][key] = row | {"machine": describe_machine()}
    write_record(folder, name, record)


def find_missing(rows: dict[str, dict], versions: dict[str, str]) -> list[str]:
    """Return the keys of which there is no row, or one of another version."""
    return [
        key
        for key, version in versions.items()
        if key not in rows or rows[key]["version"] != version
    ]


def describe_record(rows: dict[str, dict], versions: dict[str, str]) -> str:
    """Return sentences on the machines, and on what is missing or out of date."""
    missing = find_missing(rows, versions)
    old = [key for key in missing if key in rows]
    new = [key for key in missing if key not in rows]
    lines = sorted({row["machine"] for row in rows.values()})
    for text, keys in (("Of an earlier version", old), ("Not measured yet", new)):
        names = "; ".join(key.replace(" | ", ", ") for key in keys)
        lines.append(f"{text}: {names or 'none'}.")
    return "\n\n".join(lines)


def save_plot(figure: Any, path: Path) -> None:
    """Write a figure as PNG in one step, and close it."""
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100, bbox_inches="tight")
    replace_file(path, content.getvalue())
    plt.close(figure)
