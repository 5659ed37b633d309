"""The small programs in `tools/`."""

import numpy as np
import pytest
from conftest import make_notebook
from draw_animation import GAP, save, tile
from make_mnist_file import read_idx
from nbformat.v4 import new_output
from print_outputs import print_outputs, texts_by_heading


def idx_file(path, values, dimensions):
    header = bytes([0, 0, 8, len(dimensions)])
    header += np.array(dimensions, ">u4").tobytes()
    path.write_bytes(header + bytes(values))
    return path


def test_an_idx_file_is_read_row_by_row(tmp_path):
    path = idx_file(tmp_path / "idx", range(6), (2, 3))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_cut_off_idx_file_is_refused(tmp_path):
    path = idx_file(tmp_path / "idx", range(5), (2, 3))
    with pytest.raises(ValueError, match="expected 6 values, got 5"):
        read_idx(path)


@pytest.mark.parametrize("content", [b"PK\3\4 no idx", b"\0\0\x08\2\0\0", b""])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "idx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected an IDX file"):
        read_idx(path)


def test_tiled_images_stand_row_by_row():
    images = np.zeros((3, 28, 28, 1))
    images[2] = 1  # the third image begins the second row
    picture = np.asarray(tile(images, columns=2, scale=1))
    side = 28 + GAP
    assert picture.shape == (2 * side + GAP, 2 * side + GAP)
    assert picture[side + GAP, GAP] == 255
    assert picture.sum() == 28 * 28 * 255


def test_outputs_are_printed_under_their_heading():
    notebook = make_notebook("# First", "print(1)", "# Second", "1", "# Empty", "2")
    notebook.cells[1].outputs = [new_output("stream", text="one\n")]
    table = {"text/markdown": "| a |", "text/plain": "<Markdown>"}
    figure = {"image/png": "", "text/plain": "<Figure>"}
    notebook.cells[3].outputs = [
        new_output("display_data", data=table),
        new_output("display_data", data=figure),
    ]
    assert list(texts_by_heading(notebook)) == [("First", "one"), ("Second", "| a |")]


def test_a_notebook_without_outputs_is_told_from_a_wrong_heading():
    notebook = make_notebook("# First", "print(1)")
    with pytest.raises(SystemExit, match="holds no outputs"):
        print_outputs(notebook, "")
    notebook.cells[1].outputs = [new_output("stream", text="one\n")]
    with pytest.raises(SystemExit, match="contains 'Second'; the headings are: First"):
        print_outputs(notebook, "Second")


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "picture.gif"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        save(path, tile(np.zeros((1, 28, 28, 1)), 1, 1), append_images=3, save_all=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
