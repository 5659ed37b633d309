"""Draw the README's animation: ten digits emerge from noise.

    .venv/bin/python tools/draw_animation.py

Runs the descent of the homework notebook, with its settings and the saved model, for
every digit from the noise of the seed `SEED`, `SEED` + 1, … and writes
`results/noise_to_digits.gif`. `make test` installs what it needs.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from notebook_functions import import_homework
from PIL import Image

COLUMNS = 5
SCALE = 3  # pixels of the picture for one of the image
GAP = 2  # pixels of the image between two digits


def tile(images: np.ndarray, columns: int, scale: int) -> Image.Image:
    """Return images (n, 28, 28, 1) in [0, 1] as one gray picture, row by row."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        canvas[top : top + height, left : left + width] = image[..., 0]
    picture = np.kron(np.round(canvas * 255).astype(np.uint8), np.ones((scale, scale)))
    return Image.fromarray(picture.astype(np.uint8))


def save(path: Path, picture: Image.Image, **options: object) -> None:
    """Write a picture under a temporary name, then rename it."""
    temporary = path.with_name(f"partial_{path.name}")
    try:
        picture.save(temporary, **options)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    """Find the digits and write the animation."""
    homework = import_homework()
    network, _ = homework.load_model(homework.MODEL_FILE)
    pixels, labels, _, _ = homework.load_mnist()
    wanted = np.arange(homework.CLASSES)
    found = homework.optimize_images(
        network,
        homework.one_hot(wanted),
        homework.make_starts("uniform", homework.SEED + wanted),
        typical=homework.measure_digits(homework.to_images(pixels), labels),
        weights=homework.PRIOR_WEIGHTS,
        steps=homework.OPTIMIZATION_STEPS,
        rate=homework.PIXEL_RATE,
        noise=homework.VIEW_NOISE,
        shift=homework.SHIFT,
        settling_share=homework.SETTLING_SHARE,
        seed=homework.SEED,
        keep_every=5,
    )
    path = homework.RESULTS_FILE.with_name("noise_to_digits.gif")
    path.parent.mkdir(exist_ok=True)
    frames = [tile(images, COLUMNS, SCALE) for images in found.path]
    durations = [100] * (len(frames) - 1) + [3000]  # milliseconds
    save(
        path,
        frames[0],
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        optimize=True,
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
