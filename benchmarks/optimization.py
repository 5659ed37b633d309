"""Compare `optimize_images` with its peers: speed, fit, transfer, memory.

    python benchmarks/optimization.py [--parts speed quality memory] [--models ...]
    python benchmarks/optimization.py --parts tune

The first form measures and writes tables and plots into the README; the second searches
the tuned settings (`results/tuned_settings.json`) that the first one uses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from common import (
    alternate,
    bootstrap,
    describe_machine,
    make_parser,
    peak_memory,
    read_record,
    save_plot,
    spread,
    table,
    write_record,
    write_section,
)
from contestants import (
    Contestant,
    Task,
    bare_gradients,
    list_contestants,
    optimize_images,
    tf_keras_vis,
)

OURS = "optimize_images"
BARE = "bare loop of gradients"
TOGETHER = "tf-keras-vis, 100 images a call"
MODELS = {"robust": "the notebook's network", "plain": "its plainly trained twin"}
KINDS = ("defaults", "tuned")
SEARCH_SEED = 10_000  # starts of the search; those that are measured begin at 0
REACHED = 0.95  # share of images with the goal that counts as having got there
BUDGETS = (50, 100)  # shorter runs that are tried where the whole run got there


class Yardsticks(NamedTuple):
    """What measures images: see `measure`."""

    judges: dict[str, Any]
    subspaces: tuple[np.ndarray, np.ndarray]
    reference: np.ndarray


def make_task(homework: ModuleType, model: Any, with_data: bool = True) -> Task:
    """Return what contestants are given; without data only to time or weigh them."""
    if not with_data:
        typical = np.ones((2, homework.CLASSES, 3))
        return Task(
            homework, model, typical, np.ones((64, *homework.IMAGE_SHAPE), "f4")
        )
    pixels, labels, _, _ = homework.load_mnist()
    digits = homework.to_images(pixels)
    return Task(homework, model, homework.measure_digits(digits, labels), digits)


def load_models(homework: ModuleType, folder: Path, names: list[str]) -> dict[str, Any]:
    """Return the networks by name: `robust` is the notebook's, `plain` its twin."""
    from twin import load_twin

    load = {
        "robust": lambda: homework.load_model(homework.MODEL_FILE)[0],
        "plain": lambda: load_twin(homework, folder)[0],
    }
    return {name: load[name]() for name in names}


def make_starts(
    homework: ModuleType, seeds: int, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return wanted digits (10 · seeds,), round after round, and a start for each."""
    wanted = np.tile(np.arange(homework.CLASSES), seeds)
    return wanted, homework.make_starts("uniform", first + np.arange(len(wanted)))


# ---------------------------------------------------------------------------- speed


def measure_speed(
    homework: ModuleType, model: Any, names: list[str], repetitions: int, steps: int
) -> dict[str, Any]:
    """Time all contestants in turn; returns image-steps a second, a list for each."""
    task = make_task(homework, model, with_data=False)
    contestants = list_contestants(homework)
    wanted, starts = make_starts(homework, 10, first=0)
    jobs: dict[str, Any] = {
        BARE: (bare_gradients, 100, steps, {}),
        OURS: (optimize_images, 100, steps, {}),
    }
    few = max(2, steps // 4)  # for those that take long and have no start-up
    for name in names:
        chosen = contestants[name]
        amount = (
            few if name in ("student's loop", "ART MIFace", "tf-keras-vis") else steps
        )
        jobs.setdefault(name, (chosen.timed, chosen.images, amount, chosen.defaults))
        if name == "tf-keras-vis":
            jobs[TOGETHER] = (tf_keras_vis, 100, few, {})
    calls = {}
    for name, (run, count, amount, settings) in jobs.items():
        # images of one digit: ART computes the gradients of one class then
        labels = wanted[:count] if name != "ART MIFace" else np.full(count, 2)
        arguments = task, labels, starts[:count], amount, 0
        calls[name] = partial(run, *arguments, **settings)
    seconds = alternate(calls, repetitions)
    rates = {
        name: [count * amount / value for value in seconds[name]]
        for name, (_, count, amount, _) in jobs.items()
    }
    # the two that are nearly equal once more, in shorter turns and more of them
    arguments = task, wanted, starts, max(2, steps // 2), 0
    pair = {OURS: optimize_images, BARE: bare_gradients}
    pair = {name: partial(run, *arguments) for name, run in pair.items()}
    times = alternate(pair, 2 * repetitions)
    engine = np.divide(times[OURS], times[BARE]).tolist()
    steps_of_jobs = {name: job[2] for name, job in jobs.items()}
    return {"rates": rates, "engine": engine, "steps": steps_of_jobs}


# --------------------------------------------------------------------------- memory


def weigh(homework: ModuleType, name: str) -> float:
    """Return by how many MB one call of a contestant raises this process's peak."""
    model, _ = homework.load_model(homework.MODEL_FILE)
    task = make_task(homework, model, with_data=False)
    contestant = list_contestants(homework)[name]
    wanted, starts = make_starts(homework, 10, first=0)
    model(starts[:1])
    before = peak_memory()
    count = contestant.images
    labels = wanted[:count] if name != "ART MIFace" else np.full(count, 2)
    contestant.timed(task, labels, starts[:count], 5, 0, **contestant.defaults)
    return peak_memory() - before


def measure_memory(names: list[str]) -> dict[str, dict[str, float]]:
    """Weigh each contestant in a process of its own."""
    found = {}
    for name in names:
        command = [sys.executable, str(Path(__file__).resolve()), "--weigh", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


# -------------------------------------------------------------------------- quality


def make_yardsticks(homework: ModuleType, task: Task) -> Yardsticks:
    """Make the notebook's three judges and the distances of real test digits."""
    _, labels, test_pixels, test_labels = homework.load_mnist()
    subspaces = homework.fit_subspaces(task.digits, labels, rank=25)
    judges = homework.make_judges(task.digits, labels, subspaces, homework.SEED)
    errors = homework.reconstruction_errors(homework.to_images(test_pixels), *subspaces)
    own = errors[np.arange(len(errors)), test_labels]
    return Yardsticks(judges, subspaces, own)


def measure_fits(task: Task, images: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the fit (n,) in nats of images (n, 28, 28, 1) rounded to 8 bits."""
    homework = task.homework
    rounded = np.round(images * 255).astype(np.float32) / 255
    logits = task.model.predict(rounded, batch_size=100, verbose=0)
    return homework.divergence(homework.one_hot(wanted), logits).numpy()


def measure(
    task: Task, yardsticks: Yardsticks, images: np.ndarray, wanted: np.ndarray
) -> dict[str, Any]:
    """Return fits (n,), which judges see the digit (3, n), and percentiles (n,).

    The percentile is that of the distance to the subspace of the wanted class among
    the same distances of real test digits.
    """
    homework = task.homework
    rounded = np.round(images * 255).astype(np.float32) / 255
    errors = homework.reconstruction_errors(rounded, *yardsticks.subspaces)
    errors = errors[np.arange(len(errors)), wanted]
    return {
        "wanted": wanted.tolist(),
        "fits": measure_fits(task, images, wanted).tolist(),
        "right": homework.transfer(yardsticks.judges, rounded, wanted).tolist(),
        "percentiles": homework.percentiles(errors, yardsticks.reference).tolist(),
    }


def steps_of(contestant: Contestant, kind: str, homework: ModuleType) -> int:
    """Return the steps of a setting: the same number for all tuned ones."""
    return contestant.steps if kind == "defaults" else homework.OPTIMIZATION_STEPS


def measure_quality(
    task: Task,
    yardsticks: Yardsticks,
    names: list[str],
    tuned: dict[str, dict],
    seeds: int,
    most_steps: int,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Let each contestant find its images, with its defaults and tuned.

    Returns:
        For each contestant and kind of setting what `measure` returns, with the steps,
        the seconds, and `budgets`: steps, share that got there and seconds of the whole
        run and of shorter ones. And the first image of each digit.
    """
    homework = task.homework
    goal = homework.FIT_GOAL
    found, pictures = {}, {}
    for name, contestant in list_contestants(homework).items():
        if name not in names:
            continue
        wanted, starts = make_starts(homework, min(seeds, contestant.seeds), first=0)
        for kind in KINDS:
            settings = contestant.defaults if kind == "defaults" else tuned[name]
            steps = min(most_steps, steps_of(contestant, kind, homework))
            same = found.get(name, {}).get("defaults", {})
            if same and (same["settings"], same["steps"]) == (settings, steps):
                found[name][kind] = same
                pictures[f"{name}, {kind}"] = pictures[f"{name}, defaults"]
                continue
            budgets: list[list[float]] = []
            for budget in [
                steps,
                *sorted((x for x in BUDGETS if x < steps), reverse=True),
            ]:
                start = time.perf_counter()
                images = contestant.run(task, wanted, starts, budget, 0, **settings)
                seconds = time.perf_counter() - start
                if not budgets:
                    entry = measure(task, yardsticks, images, wanted)
                    entry |= {"steps": steps, "settings": settings}
                    pictures[f"{name}, {kind}"] = images[: homework.CLASSES]
                share = np.mean(measure_fits(task, images, wanted) <= goal)
                budgets.append([budget, float(share), seconds])
                if share < REACHED:
                    break
            entry["budgets"] = budgets
            found.setdefault(name, {})[kind] = entry
            transfer = np.mean(entry["right"])
            print(
                f"{name}, {kind}: transfer {transfer:.1%}, budgets {budgets}",
                flush=True,
            )
    return found, pictures


# ----------------------------------------------------------------------- the search


def make_search_judge(task: Task, labels: np.ndarray, count: int = 55_000) -> Any:
    """Train a small convolutional network, a judge for the search of settings only."""
    keras = task.homework.keras
    keras.utils.set_random_seed(77)
    layers = [keras.Input(task.homework.IMAGE_SHAPE)]
    for filters in (16, 32):
        layers += [keras.layers.Conv2D(filters, 5, 2, activation="relu")]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    model.fit(task.digits[:count], labels[:count], batch_size=128, epochs=1, verbose=0)
    return partial(model.predict, verbose=0)


def search(
    task: Task, judge: Any, names: list[str], most_steps: int
) -> dict[str, dict[str, Any]]:
    """Return for each contestant the setting of its grid that the judge reads best.

    Two images a digit, one where a run takes longer, and of five digits only where it
    takes very long; starts of their own. Ties go to the setting with more fits within
    the goal, then to the earlier one.
    """
    homework, chosen = task.homework, {}
    for name, contestant in list_contestants(homework).items():
        if name not in names:
            continue
        rounds = 2 if contestant.seeds >= 5 else 1
        wanted, starts = make_starts(homework, rounds, first=SEARCH_SEED)
        if contestant.seeds < 2:
            wanted, starts = wanted[:5], starts[:5]
        results = []
        for settings in contestant.grid:
            steps = min(most_steps, homework.OPTIMIZATION_STEPS)
            images = contestant.run(
                task, wanted, starts, steps, SEARCH_SEED, **settings
            )
            seen = np.mean(judge(images).argmax(axis=1) == wanted)
            fits = measure_fits(task, images, wanted) <= homework.FIT_GOAL
            results.append((float(seen), float(np.mean(fits))))
            print(name, settings, results[-1], flush=True)
        best = max(range(len(results)), key=lambda i: (*results[i], -i))
        chosen[name] = contestant.grid[best]
    return chosen


# --------------------------------------------------------------------------- tables


def ratio(record: dict, name: str) -> np.ndarray:
    """Return how many times faster ours is than a contestant, for every round."""
    rates = record["speed"]["rates"]
    return np.divide(rates[OURS], rates[name])


def speed_table(record: dict, contestants: dict[str, Contestant]) -> str:
    """Return the table of speed, memory and soft targets."""
    rows = []
    speed = record["speed"]
    for name, rates in speed["rates"].items():
        chosen = contestants.get(name)
        count = 100 if chosen is None else chosen.images
        weight = record.get("memory", {}).get(name)
        rows.append(
            [
                name,
                count,
                spread(rates),
                "1" if name == OURS else spread(ratio(record, name), ".2f"),
                "" if weight is None else f"{weight:.0f}",
                chosen.soft if chosen else "",
            ]
        )
    header = ["contestant", "images a call", "image-steps a second"]
    header += ["times slower than ours", "peak memory (MB)", "soft targets"]
    return table(header, rows)


def difference(entries: dict, ours: dict, kind: str) -> tuple[float, float, float]:
    """Return ours − theirs in transfer with its interval, on the images of both."""
    mine, theirs = (np.mean(x[kind]["right"], axis=0) for x in (ours, entries))
    count = min(len(mine), len(theirs))
    return bootstrap(mine[:count] - theirs[:count])


def time_to_fit(entry: dict) -> str:
    """Return the seconds of the shortest run that got there, or that none did."""
    reached = [
        (seconds, steps)
        for steps, share, seconds in entry["budgets"]
        if share >= REACHED
    ]
    if not reached:
        return "not reached"
    seconds, steps = min(reached)
    return f"{seconds:.1f} ({steps:.0f} steps)"


def quality_table(found: dict[str, Any], goal: float) -> str:
    """Return the table of fit and transfer for one model."""
    rows = []
    for kind in KINDS:
        for name, entries in found.items():
            entry = entries[kind]
            mean, low, high = difference(entries, found[OURS], kind)
            percentiles = np.array(entry["percentiles"])
            rows.append(
                [
                    name,
                    kind,
                    len(entry["fits"]),
                    entry["steps"],
                    f"{np.mean(np.array(entry['fits']) <= goal):.0%}",
                    time_to_fit(entry),
                    f"{np.mean(entry['right']):.1%}",
                    ""
                    if name == OURS
                    else f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                    f"{np.median(percentiles):.0f}",
                    f"{np.mean(percentiles <= 95):.0%}",
                ]
            )
    header = ["contestant", "settings", "images", "steps", f"fit within {goal:g}"]
    header += ["seconds to that", "transfer", "ours − theirs, points (95 % interval)"]
    header += ["median percentile off the digits", "within the 95th"]
    return table(header, rows)


def check_targets(record: dict) -> str:
    """Return a table of the targets, what was measured, and whether they are met."""
    rows = []

    def add(target: str, measured: str, met: bool) -> None:
        rows.append([target, measured, "met" if met else "**missed**"])

    rates = record.get("speed", {}).get("rates", {})
    for name, least in (("student's loop", 100), ("tf-keras-vis", 8), (TOGETHER, 8)):
        if name in rates:
            values = ratio(record, name)
            text = f"image-steps a second: at least {least} times {name}"
            add(text, spread(values, ".1f"), np.median(values) >= least)
    if "engine" in record.get("speed", {}):
        values = record["speed"]["engine"]
        text = "time of a step: at most 1.15 times that of a bare loop"
        add(text, spread(values, ".2f"), np.median(values) <= 1.15)
    for model, found in record.get("quality", {}).items():
        for kind in KINDS:
            others = [name for name in found if name != OURS]
            if not others:
                continue
            lows = {n: difference(found[n], found[OURS], kind) for n in others}
            worst = min(lows, key=lambda name: lows[name][1])
            mean, low, high = (100 * value for value in lows[worst])
            add(
                f"first in transfer on {MODELS[model]}, {kind}: interval above zero",
                f"closest of {len(others)} peers measured, {worst}: "
                f"{mean:+.1f} ({low:+.1f} to {high:+.1f})",
                low > 0,
            )
    for model in set(MODELS) - set(record.get("quality", {})):
        goal = f"first in transfer on {MODELS[model]}"
        rows.append([goal, "not measured yet", "open"])
    return table(["target", "measured", ""], rows)


def describe_settings(tuned: dict[str, dict], names: list[str]) -> str:
    """Return the tuned settings of each contestant and model as a table."""

    def describe(model: str, name: str) -> str:
        if name not in tuned[model]:
            return "not searched yet"
        settings = [f"{key} {value}" for key, value in tuned[model][name].items()]
        return ", ".join(settings) or "as by default"

    rows = [[name, *(describe(model, name) for model in tuned)] for name in names]
    return table(["contestant", *(MODELS[model] for model in tuned)], rows)


# ---------------------------------------------------------------------------- plots


def plot_summary(record: dict) -> Any:
    """Return a figure: image-steps a second, and transfer on both models."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    rates = {name: np.median(x) for name, x in record["speed"]["rates"].items()}
    names = sorted(rates, key=rates.get)
    bars = left.barh(names, [rates[name] for name in names], color="0.55")
    left.bar_label(
        bars, [f"{rates[name]:,.0f}" for name in names], padding=2, fontsize=8
    )
    left.set(xscale="log", title="Speed", xlabel="image-steps a second")
    left.set_xlim(right=6 * max(rates.values()))
    styles = {("robust", "defaults"): "o", ("robust", "tuned"): "s"}
    styles |= {("plain", "defaults"): "^", ("plain", "tuned"): "v"}
    for (model, kind), marker in styles.items():
        found = record.get("quality", {}).get(model, {})
        shares = [100 * np.mean(found[name][kind]["right"]) for name in found]
        face = "black" if model == "robust" else "none"
        label = f"{MODELS[model]}, {kind}"
        options = dict(facecolors=face, edgecolors="black", s=30, label=label)
        right.scatter(shares, list(found), marker=marker, **options)
    right.set(title="Transfer", xlabel="answers of the judges for the target (%)")
    right.set_xlim(-3, 103)
    right.invert_yaxis()
    right.grid(axis="x", alpha=0.4)
    # below the panels: inside it would hide points
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=2
    )
    return figure


def plot_gallery(pictures: dict[str, np.ndarray], title: str) -> Any:
    """Return a figure with a row of ten digits for each contestant and setting."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(pictures), 1, figsize=(7, 0.5 * len(pictures) + 0.4), layout="constrained"
    )
    figure.suptitle(title, fontsize="medium")
    for axis, (name, images) in zip(np.ravel(axes), pictures.items(), strict=True):
        axis.imshow(np.hstack(images), cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
    return figure


def keep_pictures(folder: Path, model: str, pictures: dict[str, np.ndarray]) -> None:
    """Add images to those that the gallery of a model shows."""
    path = folder / "results" / f"pictures_{model}.npz"
    kept = read_pictures(path)
    for name, images in pictures.items():
        kept[name] = np.round(images[..., 0] * 255).astype(np.uint8)
    temporary = path.with_suffix(".partial.npz")
    np.savez_compressed(temporary, **kept)
    temporary.replace(path)


def read_pictures(path: Path) -> dict[str, np.ndarray]:
    """Return the images (10, 28, 28) of each contestant and setting, as uint8."""
    if not path.exists():
        return {}
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def render(folder: Path, homework: ModuleType) -> None:
    """Write tables and plots from the stored record."""
    record = read_record(folder, "optimization")
    tuned = read_record(folder, "tuned_settings")
    parts = [f"Machine: {record['machine']}", "### Targets", check_targets(record)]
    if "speed" in record:
        parts += ["### Speed", speed_table(record, list_contestants(homework))]
    if "speed" in record and "quality" in record:
        save_plot(plot_summary(record), folder / "optimization.png")
        text = (
            "Bars: image-steps a second of each contestant. Dots: transfer of each, on"
        )
        parts += [f"![{text} both networks, with both settings](optimization.png)"]
    for model, found in record.get("quality", {}).items():
        parts += [f"### Fit and transfer on {MODELS[model]}"]
        parts += [quality_table(found, homework.FIT_GOAL)]
        pictures = read_pictures(folder / "results" / f"pictures_{model}.npz")
        title = f"Found on {MODELS[model]}"
        save_plot(plot_gallery(pictures, title), folder / f"gallery_{model}.png")
        text = "Rows of ten images, 0 to 9, a row for each contestant and setting"
        parts += [f"![{text}](gallery_{model}.png)"]
    if tuned:
        parts += [
            "### Tuned settings",
            describe_settings(tuned, list(list_contestants(homework))),
        ]
    write_section(folder / "README.md", "optimization", "\n\n".join(parts))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__)
    parts = ("speed", "quality", "memory", "tune")
    parser.add_argument("--parts", nargs="*", choices=parts, default=list(parts[:3]))
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contestants", nargs="*", help="all by default")
    parser.add_argument("--seeds", type=int, default=10, help="most runs a digit")
    parser.add_argument("--steps", type=int, default=50, help="of a timed run")
    parser.add_argument("--most-steps", type=int, default=10**6, help="of other runs")
    parser.add_argument("--weigh", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(homework: ModuleType, options: argparse.Namespace) -> None:
    """Measure what is asked for, and write the README's section."""
    if options.weigh:
        print(json.dumps(weigh(homework, options.weigh)))
        return
    folder, names = options.folder, options.contestants
    names = names or list(list_contestants(homework))
    record = read_record(folder, "optimization") | {"machine": describe_machine()}

    def keep(part: str, value: dict) -> None:
        record[part] = record.get(part, {}) | value
        write_record(folder, "optimization", record)

    models = load_models(homework, folder, options.models)
    searches = "tune" in options.parts, "quality" in options.parts
    for model_name, model in models.items() if any(searches) else ():
        # measured settings have to be searched once
        tuned = read_record(folder, "tuned_settings")
        known = {} if searches[0] else tuned.get(model_name, {})
        missing = [name for name in names if name not in known]
        if missing:
            task = make_task(homework, model)
            judge = make_search_judge(task, homework.load_mnist()[1])
            for name in missing:
                found = search(task, judge, [name], options.most_steps)
                tuned[model_name] = tuned.get(model_name, {}) | found
                write_record(folder, "tuned_settings", tuned)
    if "speed" in options.parts:
        first = models.get("robust") or next(iter(models.values()))
        amount = options.repetitions, options.steps
        keep("speed", measure_speed(homework, first, names, *amount))
    if "memory" in options.parts:
        keep("memory", measure_memory(names))
    if "quality" in options.parts:
        tuned = read_record(folder, "tuned_settings")
        yardsticks = make_yardsticks(homework, make_task(homework, None))
        for model_name, model in models.items():
            task = make_task(homework, model)
            arguments = tuned[model_name], options.seeds, options.most_steps
            old = record.get("quality", {}).get(model_name, {})
            for name in names:
                found, shown = measure_quality(task, yardsticks, [name], *arguments)
                old |= found
                keep("quality", {model_name: old})
                keep_pictures(folder, model_name, shown)
    if set(options.parts) - {"tune"}:
        render(folder, homework)


if __name__ == "__main__":
    from notebook import find_homework, import_functions

    run(import_functions(find_homework()), parse())
