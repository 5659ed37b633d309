"""The small programs in `tools/`."""

import numpy as np
from draw_animation import GAP, tile


def test_tiled_images_stand_row_by_row():
    images = np.zeros((3, 28, 28, 1))
    images[2] = 1  # the third image begins the second row
    picture = np.asarray(tile(images, columns=2, scale=1))
    side = 28 + GAP
    assert picture.shape == (2 * side + GAP, 2 * side + GAP)
    assert picture[side + GAP, GAP] == 255
    assert picture.sum() == 28 * 28 * 255
