"""Compare the notebook's descent with its peers: time, fit, judges, shape.

    python benchmarks/optimization.py --search   # search the peers' settings
    python benchmarks/optimization.py            # measure, and write the page

The search writes `results/tuned_settings.json`, which the second form uses. Both keep
each contestant or row that is done, and go on with what is missing or out of date.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import (
    FOLDER,
    MEASURES,
    ROOT,
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
    replace_file,
    save_plot,
    table,
    write_record,
    write_section,
)
from contestants import (
    CONTESTANTS,
    OURS,
    Contestant,
    Task,
    bare_gradients,
    combine,
    find_images,
)

NETWORKS = {
    "notebook": Path("models", "mnist_cnn.keras"),
    "control": Path("models", "without_mixing.keras"),
}
TITLES = {"notebook": "the notebook's network", "control": "its control network"}
BEST = f"{OURS} | as in the notebook"
FITTING = 0.95  # share of images within the goal that counts as having got there
BUDGETS = 100, 50, 25, 10, 5  # shorter runs, tried where the longer one got there
SEARCH_SEED = 10_000  # of the starts of the search; those measured begin at 0
DRAWS, FINALISTS = 24, 5  # settings tried for a contestant, and tried again
ROUNDS = 3  # of neighbors of the best


# ------------------------------------------------------------------ time and quality


def seconds_of(run: Any, *options: Any, **settings: Any) -> tuple[float, np.ndarray]:
    """Return the seconds of a call, and its images."""
    clock = time.perf_counter()
    images = run(*options, **settings)
    return round(time.perf_counter() - clock, 3), images


def measure_step(task: Task, rounds: int) -> list[float]:
    """Return how long a step of ours takes, as a multiple of a bare gradient.

    In turns of 25 steps for 100 images, after one that does not count.
    """
    wanted, starts = make_starts(task.homework, 100)
    ratios = []
    for _ in range(rounds + 1):
        pair = [
            seconds_of(run, task, wanted, starts, 25, 0)[0]
            for run in (find_images, bare_gradients)
        ]
        ratios.append(pair[0] / pair[1])
    return ratios[1:]


def measure_row(
    task: Task,
    contestant: Contestant,
    settings: dict,
    steps: int,
    judges: list,
    real: dict,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return what `measure` finds with settings and times, and the first ten images.

    `seconds` are of all images in one call, `ours` of as many of ours just before, and
    `one` of one image. `budgets` holds steps, share within the goal and seconds of the
    whole run and, where that got there, of shorter ones: three of the shortest.
    """
    homework, network = task.homework, task.network
    wanted, starts = make_starts(homework, contestant.images)
    call = task, wanted, starts
    for run, options in ((find_images, {}), (contestant.run, settings)):
        run(*call, 2, 0, **options)  # what is compiled once is compiled now
    ours = seconds_of(find_images, *call, homework.STEPS, 0)[0]
    seconds, images = seconds_of(contestant.run, *call, steps, 0, **settings)
    row = measure(homework, judges, real, network, images, wanted)
    one = task, wanted[:1], starts[:1], steps, 0
    ones = [seconds_of(contestant.run, *one, **settings)[0] for _ in range(3)]
    row |= {"settings": settings, "steps": steps, "seconds": seconds, "ours": ours}
    row |= {"one": float(np.median(ones)), "budgets": [[steps, row["fit"], seconds]]}
    for budget in (x for x in BUDGETS if x < steps):
        if row["budgets"][-1][1] < FITTING:
            break
        seconds, shorter = seconds_of(contestant.run, *call, budget, 0, **settings)
        share = float(np.mean(find_fits(homework, network, shorter, wanted)))
        row["budgets"].append([budget, share, seconds])
    there = [point for point in row["budgets"] if point[1] >= FITTING][-1:]
    for budget, share, _ in there * 2:
        seconds, _ = seconds_of(contestant.run, *call, budget, 0, **settings)
        row["budgets"].append([budget, share, seconds])
    return row, np.round(images[:10, ..., 0] * 255).astype(np.uint8)


# ----------------------------------------------------------------------- the search


def make_search_judge(homework: ModuleType) -> Any:
    """Train a small convolutional network, a judge for the search of settings only."""
    keras = homework.keras
    keras.utils.set_random_seed(77)
    digits, labels, _, _ = homework.load_mnist()
    layers = [keras.Input((28, 28, 1))]
    for filters in (16, 32):
        layers += [keras.layers.Conv2D(filters, 5, 2, activation="relu")]
    judge = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    judge.compile("adam", loss, jit_compile=False)
    judge.fit(digits, labels, batch_size=128, epochs=1, verbose=0)
    return judge


def list_neighbors(grid: dict[str, tuple], settings: dict) -> list[dict]:
    """Return settings a step away along one of them; the defaults, {}, have none."""
    return [
        settings | {name: values[place]}
        for name, values in (grid if settings else {}).items()
        for place in np.add(values.index(settings[name]), (-1, 1))
        if 0 <= place < len(values)
    ]


def search(task: Task, judge: Any, name: str, draws: int, steps: int) -> dict[str, Any]:
    """Return the best of some settings of a contestant, and how each of them did.

    The defaults and settings drawn at random (Bergstra and Bengio, 2012) are tried on a
    few starts, the best of them again on others, as many as are measured, and then the
    neighbors of the best one, a step along one setting at a time. The best has the
    largest sum of the shares of images that the judge reads and that have the right
    shape; then the most within the goal.
    """
    homework, contestant = task.homework, CONTESTANTS[name]
    random, grid = np.random.default_rng(SEARCH_SEED), combine(contestant.grid)
    if len(grid) > draws:
        grid = [grid[i] for i in random.choice(len(grid), draws, replace=False)]

    def try_settings(settings: dict, count: int, seed: int) -> list:
        wanted, starts = make_starts(homework, count, seed)
        images = contestant.run(task, wanted, starts, steps, seed, **settings)
        read = judge.predict(images, verbose=0).argmax(axis=1) == wanted
        shape = homework.measure_images(images, wanted)["shape"]
        shares = read, shape, find_fits(homework, task.network, images, wanted)
        tried = [settings, count, *(float(np.mean(share)) for share in shares)]
        print(name, *tried, flush=True)
        return tried

    def score(tried: list) -> tuple[float, float]:
        return tried[2] + tried[3], tried[4]

    first = [try_settings(settings, 20, SEARCH_SEED) for settings in [{}, *grid]]
    finalists = sorted(first, key=score, reverse=True)[:FINALISTS]
    more = contestant.images, SEARCH_SEED + 1_000
    again = [try_settings(settings, *more) for settings, *_ in finalists]
    for _ in range(ROUNDS):
        best = max(again, key=score)
        known = [settings for settings, *_ in again]
        near = [x for x in list_neighbors(contestant.grid, best[0]) if x not in known]
        again += [try_settings(settings, *more) for settings in near]
        if max(again, key=score) is best:
            break
    return {"settings": max(again, key=score)[0], "tried": first + again}


def find_edges(grid: dict[str, tuple], settings: dict[str, Any]) -> list[str]:
    """Return the settings whose value is the first or last number that was searched.

    Zero is no edge where it turns a part off.
    """
    return [
        name
        for name, value in settings.items()
        if len(grid[name]) > 3 and value in (grid[name][0], grid[name][-1])
        if value != 0
    ]


# --------------------------------------------------------------------------- tables


def time_to_fit(row: dict) -> float:
    """Return the median seconds of the shortest runs that got there, or infinity."""
    there = [point for point in row["budgets"] if point[1] >= FITTING]
    shortest = min((steps for steps, *_ in there), default=0)
    times = [seconds for steps, _, seconds in there if steps == shortest]
    return float(np.median(times)) if times else np.inf


def describe_seconds(seconds: float) -> str:
    """Return seconds as text."""
    return "not reached" if np.isinf(seconds) else f"{seconds:.1f} s"


def lead(rows: dict, name: str, figure: str) -> np.ndarray:
    """Return by how many points ours is ahead of a row, for each digit (10,)."""
    return 100 * np.subtract(rows[BEST][figure], rows[name][figure])


def quality_table(rows: dict, real: dict) -> str:
    """Return a row of figures for real digits and for each contestant and setting."""
    lines = [["real test digits", *[""] * 8, *describe_images(real), "", ""]]
    for key, row in rows.items():
        line = [*key.split(" | "), row["steps"], f"{row['seconds']:.1f}"]
        line += [f"{row['seconds'] / row['ours']:.1f}", f"{row['one']:.2f}"]
        line += [f"{row['fit']:.0%}"]
        line += [describe_seconds(time_to_fit(row))]
        line += [CONTESTANTS[key.split(" | ")[0]].soft, *describe_images(row)]
        for name in ("judges", "shape"):
            gains = lead(rows, key, name)
            line.append("" if key == BEST else describe_gain(gains, ".0f"))
        lines.append(line)
    header = ["contestant", "settings", "steps", "seconds", "times ours", "one image"]
    header += ["fit", "time to 95 % fit", "soft targets", *MEASURES]
    return table([*header, "ours ahead, judges", "ours ahead, shape"], lines)


def check_targets(networks: dict[str, dict], step: list[float], complete: bool) -> str:
    """Return a table of the targets, what was measured, and whether they are met."""

    def judge(target: str, measured: str, met: bool) -> list[str]:
        verdict = "met" if met else "**missed**"
        return [target, measured, verdict if complete else "open"]

    middle = np.median(step)
    text = f"{middle:.2f} ({min(step):.2f} to {max(step):.2f})"
    lines = [judge("time of a step: at most 1.25 bare gradients", text, middle <= 1.25)]
    for network, rows in networks.items():
        peers = [key for key in rows if key != BEST]
        if not peers:  # an interrupted run
            continue
        for name in ("shape", "judges"):
            gains = {key: lead(rows, key, name) for key in peers}
            closest = min(peers, key=lambda key: np.mean(gains[key]))
            text = f"closest, {closest.replace(' | ', ', ')}: "
            text += f"{describe_gain(gains[closest], '.0f')} points"
            target = f"first in {name} on {TITLES[network]}"
            lines.append(judge(target, text, interval(gains[closest])[1] > 0))
        seconds = {key: time_to_fit(rows[key]) for key in rows}
        closest = min(peers, key=seconds.get)
        text = f"{describe_seconds(seconds[BEST])}; closest, "
        text += f"{closest.replace(' | ', ', ')}: {describe_seconds(seconds[closest])}"
        target = f"first in time to 95 % fit on {TITLES[network]}"
        lines.append(judge(target, text, seconds[BEST] < seconds[closest]))
    return table(["target", "measured", ""], lines)


def settings_table(tuned: dict[str, dict]) -> str:
    """Return the tuned settings of each contestant."""
    lines = []
    for name, found in tuned.items():
        chosen = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
        edges = ", ".join(find_edges(CONTESTANTS[name].grid, found["settings"]))
        count = len({str(settings) for settings, *_ in found["tried"]})
        of = len(combine(CONTESTANTS[name].grid))
        lines.append([name, chosen, f"{count} of {of:,}", edges or "none"])
    return table(["contestant", "settings", "tried", "at an edge of the grid"], lines)


def plot_gallery(pictures: dict[str, np.ndarray], title: str) -> Any:
    """Return a figure with a row of ten digits for each contestant and setting."""
    import matplotlib.pyplot as plt

    size = 8, 0.5 * len(pictures) + 0.4
    figure, axes = plt.subplots(len(pictures), 1, figsize=size, layout="constrained")
    figure.suptitle(title, fontsize="medium")
    for axis, (key, images) in zip(np.ravel(axes), pictures.items(), strict=True):
        axis.imshow(np.hstack(images), cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        name = key.replace(" | ", ", ")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
    return figure


def read_pictures(folder: Path) -> dict[str, np.ndarray]:
    """Return the stored pictures, ten for each row."""
    path = folder / "results" / "pictures.npz"
    if not path.exists():
        return {}
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def render(folder: Path, versions: dict[str, str]) -> None:
    """Write tables and galleries from the stored record."""
    record, tuned = (read_record(folder, x) for x in ("optimization", "tuned_settings"))
    pictures, networks = read_pictures(folder), {name: {} for name in NETWORKS}
    for key in (key for key in versions if key in record["rows"]):
        network, name = key.split(" | ", 1)
        networks[network][name] = record["rows"][key]
    complete = not find_missing(record["rows"], versions)
    text = [describe_record(record["rows"], versions), "### Targets"]
    text += [check_targets(networks, record["step"], complete)]
    for network, rows in networks.items():
        title = f"Found on {TITLES[network]}"
        shown = {name: pictures[f"{network} | {name}"] for name in rows}
        save_plot(plot_gallery(shown, title), folder / f"gallery_{network}.png")
        alt = "Rows of ten images, 0 to 9, a row for each contestant and setting"
        text += [f"### {title}", quality_table(rows, record["real"])]
        text += [f"![{alt}](gallery_{network}.png)"]
    text += ["### Tuned settings", settings_table(tuned["rows"])]
    write_section(folder / "README.md", "optimization", "\n\n".join(text))


# ------------------------------------------------------------------------------ run


def make_tasks(homework: ModuleType) -> dict[str, Task]:
    """Return the task of each network."""
    digits = homework.load_mnist()[0]
    prior = homework.make_prior(digits)
    return {
        name: Task(homework, homework.load_network(file), prior, digits)
        for name, file in NETWORKS.items()
    }


def list_rows(tuned: dict, steps: int) -> dict[str, tuple]:
    """Return contestant, settings and steps of all rows; None if not searched yet."""
    rows = {}
    for network in NETWORKS:
        for name, contestant in CONTESTANTS.items():
            if name == OURS:
                rows[f"{network} | {BEST}"] = name, {}, steps
                continue
            rows[f"{network} | {name} | defaults"] = name, {}, contestant.steps
            settings = tuned.get(name, {"settings": None})["settings"]
            rows[f"{network} | {name} | tuned"] = name, settings, steps
    return rows


def find_versions(homework: ModuleType, tuned: dict, steps: int) -> dict[str, str]:
    """Return the version that each row would have now."""
    found = {}
    for key, (name, settings, amount) in list_rows(tuned, steps).items():
        file = ROOT / NETWORKS[key.split(" | ")[0]]
        parts = CONTESTANTS[name].run, settings, amount, measure_row, measure, find_fits
        found[key] = digest(*parts, homework, file)
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--search", action="store_true", help="search settings")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS))
    rehearsal = parser.add_argument_group("for a rehearsal")
    rehearsal.add_argument("--steps", type=int, help="of ours, and of what is tuned")
    rehearsal.add_argument("--draws", type=int, default=DRAWS, help="settings to try")
    return parser.parse_args(arguments)


def search_all(homework: ModuleType, options: argparse.Namespace) -> None:
    """Search the settings that are missing or out of date."""
    steps = options.steps or homework.STEPS
    task, judge = make_tasks(homework)["notebook"], make_search_judge(homework)
    file, versions = ROOT / NETWORKS["notebook"], {}
    for name in options.contestants:
        run, grid = CONTESTANTS[name].run, CONTESTANTS[name].grid
        parts = run, grid, search, options.draws, steps, homework, file
        versions |= {name: digest(*parts)} if grid else {}
    rows = read_record(options.folder, "tuned_settings")["rows"]
    for name in find_missing(rows, versions):
        found = search(task, judge, name, options.draws, steps)
        found |= {"version": versions[name]}
        keep_row(options.folder, "tuned_settings", name, found)


def measure_all(homework: ModuleType, options: argparse.Namespace) -> None:
    """Measure the rows that are missing or out of date; write the page's section."""
    folder, steps = options.folder, options.steps or homework.STEPS
    tasks, record = make_tasks(homework), read_record(folder, "optimization")
    digits, labels, *test = homework.load_mnist()
    judges = homework.train_judges(digits, np.eye(10, dtype="float32")[labels])
    real, network = measure_real(homework), tasks["notebook"].network
    sample = [x[::5] for x in test]
    record["real"] = measure(homework, judges, real, network, *sample)
    record["step"] = measure_step(tasks["notebook"], 10)
    write_record(folder, "optimization", record)
    tuned = read_record(folder, "tuned_settings")["rows"]
    versions, rows = find_versions(homework, tuned, steps), list_rows(tuned, steps)
    for key in find_missing(record["rows"], versions):
        name, settings, amount = rows[key]
        if name not in options.contestants or settings is None:
            continue
        call = tasks[key.split(" | ")[0]], CONTESTANTS[name], settings, amount
        row, images = measure_row(*call, judges, real)
        content = io.BytesIO()
        np.savez_compressed(content, **read_pictures(folder) | {key: images})
        replace_file(folder / "results" / "pictures.npz", content.getvalue())
        keep_row(folder, "optimization", key, row | {"version": versions[key]})
        print(key, row["seconds"], row["fit"], flush=True)
    render(folder, versions)


if __name__ == "__main__":
    options = parse()
    (search_all if options.search else measure_all)(load_homework(), options)
