"""Measure the training's arithmetic beside the machine's float32 matrix products.

    python benchmarks/training_rate.py [--repetitions N] [--steps N] [--size N]

Both are timed in turn, several times in one run, and printed in GFLOP/s with their
ratio. The training's floating-point operations are counted from the network: two for
each multiply-accumulate, once forward and twice backward for every image of the batch,
and once forward and once backward for the attacked part.
"""

from __future__ import annotations

import argparse
import time
from types import ModuleType
from typing import Any

import numpy as np
from common import make_noise, make_trainer


def matrix_rate(size: int) -> float:
    """Return the GFLOP/s of products of two square float32 matrices."""
    import tensorflow as tf

    matrix = tf.random.normal((size, size))
    product = tf.function(lambda: tf.matmul(matrix, matrix))
    product()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 1:
        product().numpy()
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - start) / 1e9


def count_step(homework: ModuleType, network: Any) -> int:
    """Return the floating-point operations of one step of the notebook's training.

    Once forward and twice backward for every image of the batch, and once forward and
    once backward for the three eighths that are attacked.
    """
    batch = homework.BATCH_SIZE
    work = homework.count_network(network)["multiply-accumulates"].replace(",", "")
    return 2 * int(work) * (3 * batch + 2 * (3 * (batch // 8)))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="training steps a time")
    parser.add_argument("--size", type=int, default=2048, help="side of the matrices")
    return parser.parse_args(arguments)


def run(homework: ModuleType, options: argparse.Namespace) -> None:
    """Print the table."""
    batch = homework.BATCH_SIZE
    images, labels = make_noise(homework, batch * options.steps)
    network = homework.build_network(homework.DROPOUT, 0)
    trainer = make_trainer(homework, network)
    trainer.fit(images, labels, batch_size=batch, verbose=0)
    operations = count_step(homework, network)

    matrices, trainings = [], []
    for _ in range(options.repetitions):
        matrices.append(matrix_rate(options.size))
        start = time.perf_counter()
        trainer.fit(images, labels, batch_size=batch, verbose=0)
        seconds = (time.perf_counter() - start) / options.steps
        trainings.append(operations / seconds / 1e9)
    rows = {
        f"matrix product {options.size}": matrices,
        "training": trainings,
        "ratio": np.divide(trainings, matrices),
    }
    print("| GFLOP/s | median | smallest | largest |\n| --- | --- | --- | --- |")
    for name, values in rows.items():
        form = ".2f" if name == "ratio" else ".0f"
        low, middle, high = np.min(values), np.median(values), np.max(values)
        print(f"| {name} | {middle:{form}} | {low:{form}} | {high:{form}} |")


if __name__ == "__main__":
    from notebook import find_homework, import_functions

    run(import_functions(find_homework()), parse())
