"""A plainly trained twin of the notebook's network: same layers, nothing robust.

    python benchmarks/twin.py [--epochs N]

Plain cross-entropy on the clean training images, Adam at its defaults, no distortion,
no attack, no noise. It is kept in `plain_twin.keras` and made again only when the
network or this training has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from common import FOLDER

SETTINGS = {"epochs": 3, "batch_size": 128, "seed": 1}


def digest(homework: ModuleType, settings: dict[str, int]) -> str:
    """Return what tells whether a stored twin is still the twin of the network."""
    parts = [inspect.getsource(homework.build_network), inspect.getsource(make_twin)]
    parts += [json.dumps(settings), str(homework.DROPOUT), str(homework.SEED)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def make_twin(homework: ModuleType, settings: dict[str, int], count: int) -> Any:
    """Train a twin on the first `count` training images; return it and its accuracy."""
    keras = homework.keras
    pixels, labels, _, _ = homework.load_mnist()
    split = homework.split_stratified(labels, homework.VALIDATION_IMAGES, homework.SEED)
    kept, held_out = split
    images = homework.to_images(pixels)
    network = homework.build_network(homework.DROPOUT, settings["seed"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    amount = dict(epochs=settings["epochs"], batch_size=settings["batch_size"])
    kept = kept[:count]
    network.fit(images[kept], labels[kept], verbose=0, **amount)
    scores = network.evaluate(
        images[held_out], labels[held_out], batch_size=500, verbose=0
    )
    network.compile()  # the optimizer's state would triple the file
    return network, scores[1]


def load_twin(
    homework: ModuleType,
    folder: Path = FOLDER,
    settings: dict[str, int] | None = None,
    count: int = 55_000,
) -> tuple[Any, dict]:
    """Return the twin and its record, trained now if no fitting one is stored."""
    settings = settings or SETTINGS
    path, wanted = folder / "plain_twin.keras", digest(homework, settings)
    if path.exists():
        network, record = homework.load_model(path)
        if record.get("digest") == wanted:
            return network, record
    network, accuracy = make_twin(homework, settings, count)
    record = settings | {"digest": wanted, "validation_accuracy": accuracy}
    homework.save_model(network, record, path)
    return network, record


def main(arguments: list[str] | None = None) -> None:
    """Make the twin if needed and print its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"])
    parser.add_argument("--images", type=int, default=55_000, help="to learn from")
    options = parser.parse_args(arguments)
    from notebook import find_homework, import_functions

    settings = SETTINGS | {"epochs": options.epochs}
    print(
        load_twin(
            import_functions(find_homework()), options.folder, settings, options.images
        )[1]
    )


if __name__ == "__main__":
    main()
