"""Compare the notebook's descent with its peers: speed, fit, transfer, shape.

    python benchmarks/optimization.py            # measure, and write the page
    python benchmarks/optimization.py --search   # search the peers' settings anew

The search writes `results/tuned_settings.json`, which the first form uses.
"""

from __future__ import annotations

import argparse
import io
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import (
    FIT_GOAL,
    FOLDER,
    Judges,
    alternate,
    bootstrap,
    describe_machine,
    judge_target,
    load_homework,
    make_judges,
    measure,
    median_and_range,
    read_record,
    replace_file,
    save_plot,
    table,
    write_record,
    write_section,
)
from contestants import (
    OURS,
    STUDENT,
    TF_KERAS_VIS,
    TOGETHER,
    Contestant,
    Task,
    bare_gradients,
    find_images,
    list_contestants,
    make_starts,
    make_task,
    tf_keras_vis,
)

BARE = "bare loop of gradients"
NETWORKS = {"notebook": "the notebook's network", "control": "its control network"}
SEARCH_SEED = 10_000  # of the starts of the search; those measured begin at 0
DRAWS = 24  # settings tried for a contestant
FITTING = 0.95  # share of images within the goal that counts as having got there
BUDGETS = (50, 100)  # shorter runs that are tried where the whole run got there
LARGER = ("transfer", "shape", "one piece", "spread")  # larger is better


# ---------------------------------------------------------------------------- speed


def measure_speed(task: Task, names: list[str], rounds: int) -> dict[str, Any]:
    """Time all contestants in turn; returns image-steps a second, a list for each."""
    contestants = list_contestants(task.homework.STEPS)
    wanted, starts = make_starts(task.homework, 100, 0)
    jobs = {BARE: (bare_gradients, 100, 50, {})}
    for name in names:
        chosen = contestants[name]
        settings = {k: v for k, v in chosen.defaults.items() if k != "together"}
        jobs[name] = chosen.timed, chosen.batch, chosen.timed_steps, settings
        if name == TF_KERAS_VIS:
            jobs[TOGETHER] = tf_keras_vis, 100, chosen.timed_steps, {}
    calls = {}
    for name, (run, batch, steps, settings) in jobs.items():
        # ART computes the gradients of each class in a batch: here of one
        digits = np.full(batch, 2) if name == "ART MIFace" else wanted[:batch]
        calls[name] = partial(run, task, digits, starts[:batch], steps, 0, **settings)
    seconds = alternate(calls, rounds)
    rates = {
        name: [batch * steps / x for x in seconds[name]]
        for name, (_, batch, steps, _) in jobs.items()
    }
    # the two that are nearly equal once more, in shorter turns and more of them
    pair = {OURS: find_images, BARE: bare_gradients}
    pair = {k: partial(run, task, wanted, starts, 25, 0) for k, run in pair.items()}
    times = alternate(pair, 2 * rounds)
    step = np.divide(times[OURS], times[BARE]).tolist()
    return {"rates": rates, "step": step, "growth": measure_growth(task, rounds)}


def measure_growth(task: Task, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of our calls of 10 steps for 1 to 1,000 images, in turn."""
    calls = {}
    for count in (1, 10, 100, 1_000):
        wanted, starts = make_starts(task.homework, count, 0)
        calls[f"{count:,}"] = partial(find_images, task, wanted, starts, 10, 0)
    return alternate(calls, rounds)


# -------------------------------------------------------------------------- quality


def measure_quality(
    judges: Judges, task: Task, contestant: Contestant, settings: dict, steps: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Return what `measure` finds, steps and settings, and the first ten images.

    `budgets` holds steps, share within the goal and seconds of the whole run and, where
    the whole run got there, of shorter ones.
    """
    homework, entry, first = task.homework, {}, None
    wanted, starts = make_starts(homework, contestant.images, 0)
    budgets = []
    for budget in (steps, *sorted((x for x in BUDGETS if x < steps), reverse=True)):
        clock = time.perf_counter()
        images = contestant.run(task, wanted, starts, budget, 0, **settings)
        seconds = round(time.perf_counter() - clock, 2)
        measured = measure(judges, task.network, images, wanted)
        share = float(np.mean(np.array(measured["fit"]) <= FIT_GOAL))
        budgets.append([budget, share, seconds])
        if first is None:
            entry, first = measured, np.round(images[:10, ..., 0] * 255)
        if share < FITTING:
            break
    extra = {"steps": steps, "settings": settings, "budgets": budgets}
    return entry | extra, first.astype(np.uint8)


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


def search(
    task: Task, judge: Any, name: str, draws: int, steps: int, count: int = 20
) -> dict[str, Any]:
    """Return the best of some settings of a contestant, and how all of them did.

    At most `draws` settings of its grid, drawn at random (Bergstra and Bengio, 2012),
    on starts of their own. The best has the largest sum of the shares of images that
    the judge reads and that have the right shape; then the most within the goal.
    """
    homework, contestant = task.homework, list_contestants(steps)[name]
    random = np.random.default_rng(SEARCH_SEED)
    grid = contestant.grid
    if len(grid) > draws:
        grid = [grid[i] for i in random.choice(len(grid), draws, replace=False)]
    count = count if contestant.images == 100 else count // 2
    wanted, starts = make_starts(homework, count, SEARCH_SEED)
    targets, tried = np.eye(10, dtype="float32")[wanted], []
    for settings in grid:
        images = contestant.run(task, wanted, starts, steps, SEARCH_SEED, **settings)
        read = judge.predict(images, verbose=0).argmax(axis=1) == wanted
        pieces, holes = homework.count_pieces_and_holes(images)
        pairs = zip(holes, wanted, strict=True)
        shape = (pieces == 1) & [hole in homework.HOLES[digit] for hole, digit in pairs]
        logits = task.network.predict(images, verbose=0)
        fits = homework.divergence(targets, logits).numpy() <= FIT_GOAL
        tried.append([settings, np.mean(read), np.mean(shape), np.mean(fits)])
        print(name, *tried[-1], flush=True)
    best = max(tried, key=lambda x: (x[1] + x[2], x[3]))[0]
    return {"settings": best, "tried": len(grid), "starts": [SEARCH_SEED, count]}


# --------------------------------------------------------------------------- tables


def compare(ours: dict, theirs: dict, name: str, real: dict) -> tuple[float, ...]:
    """Return by how much ours is better in a figure, with its 95 % interval.

    Paired on the images that both made. Gray is better closer to that of real digits.
    """
    count = min(len(ours[name]), len(theirs[name]))
    mine, other = (np.array(entry[name][:count]) for entry in (ours, theirs))
    if name not in LARGER:
        mine, other = (-np.abs(x - np.mean(real[name])) for x in (mine, other))
    return bootstrap(mine - other)


def time_to_fit(entry: dict) -> float:
    """Return the seconds of the shortest run that got there, or infinity."""
    return min(
        (s for _, share, s in entry["budgets"] if share >= FITTING), default=np.inf
    )


def speed_table(record: dict) -> str:
    """Return the table of speed."""
    speed, contestants, rows = record["speed"], list_contestants(0), []
    for name, rates in speed["rates"].items():
        chosen = contestants.get(name)
        slower = median_and_range(np.divide(speed["rates"][OURS], rates), ".2f")
        row = [name, chosen.batch if chosen else 100, median_and_range(rates)]
        rows.append([*row, slower, chosen.soft if chosen else ""])
    header = ["contestant", "images a call", "image-steps a second"]
    return table([*header, "times slower than ours", "soft targets"], rows)


def growth_table(record: dict) -> str:
    """Return the table of seconds by number of images."""
    growth = record["speed"]["growth"]
    rows = [[name, median_and_range(x, ".3f")] for name, x in growth.items()]
    return table(["images in a call of find_images, 10 steps", "seconds"], rows)


def quality_table(record: dict, network: str) -> str:
    """Return a row of figures for real digits and for each contestant and setting."""
    real, names = record["real"], ("transfer", "shape", "one piece", "gray", "spread")
    form = {"gray": "{:.2f}", "spread": "{:.2f}"}
    rows = [["real test digits", "", len(real["shape"]), "", "", ""]]
    rows[0] += [form.get(x, "{:.1%}").format(np.mean(real[x])) for x in names]
    for key, entry in record["quality"][network].items():
        seconds = time_to_fit(entry)
        row = [*key.split(" | "), len(entry["fit"]), entry["steps"]]
        row += [f"{entry['budgets'][0][1]:.0%}"]
        row += ["not reached" if np.isinf(seconds) else f"{seconds:.1f}"]
        rows.append(
            [*row, *(form.get(x, "{:.1%}").format(np.mean(entry[x])) for x in names)]
        )
    header = ["contestant", "settings", "images", "steps", "fit", "seconds to 95 % fit"]
    return table([*header, *names], rows)


def paired_table(record: dict, network: str) -> str:
    """Return by how much ours is better than each peer, in points, with intervals."""
    found, rows = record["quality"][network], []
    names = ("transfer", "shape", "one piece", "gray", "spread")
    ours = found[f"{OURS} | as in the notebook"]
    for key, entry in found.items():
        if entry is not ours:
            gains = [compare(ours, entry, name, record["real"]) for name in names]
            texts = [
                "{:+.0f} ({:+.0f} to {:+.0f})".format(*np.multiply(100, x))
                for x in gains
            ]
            rows.append([*key.split(" | "), *texts])
    return table(["ours is better than", "settings", *names], rows)


def check_targets(record: dict) -> str:
    """Return a table of the targets, what was measured, and whether they are met."""
    rows, speed, found = [], record["speed"], record["quality"]["notebook"]
    for name, least in ((STUDENT, 100), (TF_KERAS_VIS, 8), (TOGETHER, 8)):
        if name in speed["rates"]:
            ratio = np.divide(speed["rates"][OURS], speed["rates"][name])
            target = f"image-steps a second: at least {least} times {name}"
            met = np.median(ratio) >= least
            rows.append(judge_target(target, median_and_range(ratio, ".1f"), met))
    target = "time of a step: at most 1.15 times a bare gradient"
    met = np.median(speed["step"]) <= 1.15
    rows.append(judge_target(target, median_and_range(speed["step"], ".2f"), met))
    ours = found[f"{OURS} | as in the notebook"]
    peers = {key: entry for key, entry in found.items() if entry is not ours}
    for name in ("shape", "transfer"):
        gains = {
            key: compare(ours, x, name, record["real"]) for key, x in peers.items()
        }
        closest = min(gains, key=lambda key: gains[key][1])
        text = "{:+.0f} ({:+.0f} to {:+.0f}) points".format(
            *np.multiply(100, gains[closest])
        )
        target = f"first in {name} on the notebook's network: interval above zero"
        met = gains[closest][1] > 0
        measured = f"closest, {closest.replace(' | ', ', ')}: {text}"
        rows.append(judge_target(target, measured, met))
    seconds = {key: time_to_fit(entry) for key, entry in peers.items()}
    closest = min(seconds, key=seconds.get)
    text = f"{time_to_fit(ours):.1f} s; closest, {closest.replace(' | ', ', ')}: "
    text += "not reached" if np.isinf(seconds[closest]) else f"{seconds[closest]:.1f} s"
    met = time_to_fit(ours) < seconds[closest]
    rows.append(judge_target("first in seconds until 95 % fit", text, met))
    return table(["target", "measured", ""], rows)


def settings_table(tuned: dict[str, dict]) -> str:
    """Return the tuned settings of each contestant."""
    rows = []
    for name, found in tuned.items():
        chosen = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
        seed, count = found["starts"]
        rows.append([name, chosen, found["tried"], f"{count} from seed {seed:,}"])
    return table(["contestant", "settings", "tried", "starts of the search"], rows)


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


def render(folder: Path) -> None:
    """Write tables and galleries from the stored record."""
    record = read_record(folder, "optimization")
    parts = [record["machine"], "### Targets", check_targets(record)]
    parts += ["### Speed", speed_table(record), growth_table(record)]
    for network in record["quality"]:
        with np.load(folder / "results" / f"pictures_{network}.npz") as file:
            pictures = {name: file[name] for name in file.files}
        title = f"Found on {NETWORKS[network]}"
        save_plot(plot_gallery(pictures, title), folder / f"gallery_{network}.png")
        parts += [f"### {title}", quality_table(record, network)]
        parts += [paired_table(record, network)]
        text = "Rows of ten images, 0 to 9, a row for each contestant and setting"
        parts += [f"![{text}](gallery_{network}.png)"]
    tuned = read_record(folder, "tuned_settings")
    parts += ["### Tuned settings", settings_table(tuned)]
    write_section(folder / "README.md", "optimization", "\n\n".join(parts))


def run(homework: ModuleType, options: argparse.Namespace) -> None:
    """Search settings, or measure and write the page's section."""
    folder, names = options.folder, options.contestants
    names = names or list(list_contestants(homework.STEPS))
    files = {"notebook": "mnist_cnn.keras", "control": "without_mixing.keras"}
    tasks = {
        name: make_task(homework, homework.load_network(homework.MODELS / file))
        for name, file in files.items()
    }
    steps = options.steps or homework.STEPS
    tuned = read_record(folder, "tuned_settings")
    if options.search:
        judge = make_search_judge(homework)
        for name in names:
            if list_contestants(steps)[name].grid:
                found = search(tasks["notebook"], judge, name, options.draws, steps)
                tuned[name] = found
                write_record(folder, "tuned_settings", tuned)
        return
    judges = make_judges(homework)
    _, _, test_digits, test_labels = homework.load_mnist()
    real = test_digits[:2_000], test_labels[:2_000]
    record = {"machine": describe_machine(), "quality": {}}
    record["real"] = measure(judges, tasks["notebook"].network, *real)
    record["speed"] = measure_speed(tasks["notebook"], names, options.rounds)
    for network, task in tasks.items():
        found, pictures = record["quality"].setdefault(network, {}), {}
        for name, contestant in list_contestants(steps).items():
            if name not in names:
                continue
            kinds = {"tuned": (tuned[name]["settings"], steps)} if name in tuned else {}
            if network == "notebook":  # the control network only with tuned settings
                default_steps = min(contestant.steps, options.steps or contestant.steps)
                defaults = dict(contestant.defaults), default_steps
                kinds = {"defaults": defaults, **kinds}
            if name == OURS:
                kinds = {"as in the notebook": ({}, steps)}
            for kind, amount in kinds.items():
                key = f"{name} | {kind}"
                found[key], pictures[key] = measure_quality(
                    judges, task, contestant, *amount
                )
                transfer, shape = (
                    np.mean(found[key][x]) for x in ("transfer", "shape")
                )
                print(f"{network}: {key}: {transfer:.1%}, {shape:.1%}", flush=True)
        write_record(folder, "optimization", record)
        content = io.BytesIO()
        np.savez_compressed(content, **pictures)
        path = folder / "results" / f"pictures_{network}.npz"
        replace_file(path, content.getvalue())
    render(folder)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--search", action="store_true", help="search settings anew")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    parser.add_argument("--contestants", nargs="*", help="all by default")
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--draws", type=int, default=DRAWS, help="settings to try")
    parser.add_argument("--steps", type=int, help="at most, for a rehearsal")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(load_homework(), parse())
