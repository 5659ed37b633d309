"""Draw the README's animation: ten digits emerge from noise.

    .venv/bin/python tools/draw_animation.py

Runs the descent of the homework notebook, with its settings and the saved network, for
every digit from a random image of its own and writes
`results/noise_to_digits.gif`. `make test` installs what it needs.
"""

from __future__ import annotations

import io
import os

import numpy as np
from notebook import ROOT, find_homework, import_functions, replace_file
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


def main() -> None:
    """Find the digits and write the animation."""
    os.chdir(ROOT)
    homework = import_functions(find_homework())
    digits, *_ = homework.load_mnist()
    mean, covariance = homework.fit_gaussian(digits, 0.02)
    found = homework.find_images(
        homework.load_network(homework.MODEL_FILE),
        (mean, np.linalg.inv(covariance)),
        np.eye(10),
        homework.random_images(homework.SEED + np.arange(10)),
        homework.SEED,
    )
    path = ROOT / "results" / "noise_to_digits.gif"
    frames = [tile(images, COLUMNS, SCALE) for images in found["path"]]
    durations = [100] * (len(frames) - 1) + [3000]  # milliseconds
    options = dict(append_images=frames[1:], duration=durations, loop=0, optimize=True)
    content = io.BytesIO()
    frames[0].save(content, "gif", save_all=True, **options)
    replace_file(path, content.getvalue())
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
