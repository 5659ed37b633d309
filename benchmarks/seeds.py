"""Train the homework's network from three further seeds, and measure what each gives.

    .venv/bin/python benchmarks/seeds.py

Networks of one recipe differ: this says how much. Everything but the seeds is as in
the notebook. Writes `results/seeds.json` beside this file after every seed, and prints
all as a table; about 25 minutes on two cores. `make test` installs what it needs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results" / "seeds.json"
SEEDS = (1, 2, 3)


def measure_seed(homework: ModuleType, seed: int) -> dict[str, float]:
    """Return the figures of one seed: shares, except for gray, spread and seconds."""
    homework.SEED = seed
    digits, labels, test_digits, test_labels = homework.load_mnist()
    one_hot = np.eye(10, dtype="float32")
    order = np.random.default_rng(seed).permutation(len(digits))
    validation, kept = order[:5_000], order[5_000:]
    homework.keras.utils.set_random_seed(seed)
    mean, covariance = homework.fit_gaussian(digits, 1e-4)
    start = time.perf_counter()
    network = homework.train_network(
        (digits[kept], one_hot[labels[kept]]),
        (digits[validation], one_hot[labels[validation]]),
        homework.EPOCHS,
        (mean, np.linalg.cholesky(covariance)),
    )
    figures = {"seconds of training": time.perf_counter() - start}
    for name, images, truth in (
        ("validation accuracy", digits[validation], labels[validation]),
        ("test accuracy", test_digits, test_labels),
    ):
        answers = network.predict(images, batch_size=500, verbose=0).argmax(axis=1)
        figures[name] = np.mean(answers == truth)

    mean, covariance = homework.fit_gaussian(digits, 0.02)
    prior = mean, np.linalg.inv(covariance)
    wanted = np.repeat(np.arange(10), 50)
    starts = homework.random_images(seed + 3000 + np.arange(500))
    found = homework.find_images(network, prior, one_hot[wanted], starts, seed + 3000)
    real, real_labels = digits[:5_000], labels[:5_000]
    measures = homework.measure_images(found["images"], wanted, real, real_labels)
    of_real = homework.measure_images(
        test_digits[:2_000], test_labels[:2_000], real, real_labels
    )
    below = [
        of_real["shape"][test_labels[:2_000] == digit].mean()
        - measures["shape"][wanted == digit].mean()
        for digit in range(10)
    ]
    figures["fit"] = np.mean(found["fits"] <= homework.FIT_GOAL)
    figures |= {name: np.mean(measures[name]) for name in ("shape", "one piece")}
    figures |= {name: float(measures[name]) for name in ("gray", "spread")}
    figures["digit farthest below real"] = max(below)

    pairs = np.array([(a, b) for a in range(10) for b in range(a)])
    blends = (one_hot[pairs[:, 0]] + one_hot[pairs[:, 1]]) / 2
    half = np.repeat((one_hot[2:3] + one_hot[3:4]) / 2, 20, axis=0)
    for name, targets, offset in (("pairs", blends, 8000), ("2 and 3", half, 5000)):
        found = homework.find_images(
            network,
            prior,
            targets,
            homework.random_images(seed + offset + np.arange(len(targets))),
            seed + offset,
            steps=homework.SOFT_STEPS,
            settling=1 / 3,
            temperature=homework.SOFT_TEMPERATURE,
        )
        gaps = np.abs(found["probabilities"] - targets).max(axis=1)
        pieces = homework.count_pieces_and_holes(found["images"])[0]
        figures[f"{name}: within 0.01"] = np.mean(gaps <= 0.01)
        figures[f"{name}: one piece"] = np.mean(pieces == 1)
    return {name: round(float(value), 4) for name, value in figures.items()}


def main() -> None:
    """Measure every seed, and print all of them as a table."""
    sys.path.insert(0, str(RESULTS.parents[2] / "tools"))
    from notebook import ROOT, find_homework, import_functions

    os.chdir(ROOT)
    homework = import_functions(find_homework())
    rows = {}
    for seed in SEEDS:
        rows[seed] = measure_seed(homework, seed)
        partial_file = RESULTS.with_suffix(".partial.json")
        partial_file.write_text(json.dumps(rows, indent=1))
        partial_file.replace(RESULTS)
    print("| figure |", " | ".join(f"seed {seed}" for seed in rows), "| mean |")
    print("| --- |" + " --- |" * (len(rows) + 1))
    for name in rows[SEEDS[0]]:
        values = [row[name] for row in rows.values()]
        cells = [f"{value:.4g}" for value in (*values, np.mean(values))]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
