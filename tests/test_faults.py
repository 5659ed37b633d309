"""Faults from outside: kills, full disks, read-only folders, no GPU, little memory.

Each ends in a clear message, where anything can still say one, and in files that are as
good as before. What is wrong inside of a file is in test_data_and_model_files.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import ROOT, find_notebook, select_cells, under
from execute_notebook import inject_parameters, read_notebook
from test_execution import DATA, MODEL, RESULTS, TINY

# What the programs below begin with.
IMPORT = f"""
import os, random, select, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tools")!r})
from notebook_functions import import_homework
homework = import_homework()
os.chdir(sys.argv[1])
import numpy as np
"""


def run_program(folder: Path, code: str, **options) -> subprocess.CompletedProcess:
    """Run a program of the notebook's functions that works in a folder."""
    return subprocess.run(
        [sys.executable, "-c", IMPORT + textwrap.dedent(code), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------- killed

# A child works, and tells with a letter what it has done: a step (t) or a save (s).
# Some time after the first letter it is killed. Children are copies of one process,
# made before TensorFlow computes anything, since its threads are not copied.
KILL = """
def small_network():
    inputs = homework.keras.Input(homework.IMAGE_SHAPE)
    flat = homework.layers.Flatten()(inputs)
    hidden = homework.layers.Dense(100)(flat)
    return homework.keras.Model(inputs, homework.layers.Dense(10)(hidden))


def save(tell):
    network = small_network()
    for number in range(1_000_000):
        network.set_weights([np.full(w.shape, number) for w in network.get_weights()])
        homework.save_model(network, {"number": number}, Path("models/mnist_cnn.keras"))
        tell("s")


def train(tell):
    class Quiet(homework.keras.callbacks.Callback):
        seconds = 0.0

        def on_train_batch_end(self, batch, logs=None):
            tell("t")

    homework.Progress = Quiet
    data = np.zeros((64, 28, 28, 1), np.float32), np.arange(64) % 10
    options = dict(learning_rate=1e-3, weight_decay=0.05, seed=1, epochs=20)
    ways = dict(distortion=1.0, attack_length=2.0, batch_size=8)
    network = small_network()
    for number in range(1_000_000):
        homework.train(network, data, data, **options, **ways)
        network.set_weights([np.full(w.shape, number) for w in network.get_weights()])
        homework.save_model(network, {"number": number}, Path("models/mnist_cnn.keras"))
        tell("s")


def run_and_kill(work, folder, delay):
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            work(lambda letter: os.write(target, letter.encode()))
        finally:
            os._exit(1)
    os.close(target)
    told = os.read(source, 1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while more := os.read(source, 4096):
        told += more
    print(folder, os.WTERMSIG(status), told.decode(), flush=True)


work, longest = {"save": (save, 0.3), "train": (train, 1.2)}[sys.argv[2]]
delays = random.Random(int(sys.argv[3]))
for number in range(int(sys.argv[4])):
    folder = Path(str(number))
    folder.joinpath("models").mkdir(parents=True)
    old = Path("old.keras")
    folder.joinpath("models/mnist_cnn.keras").write_bytes(old.read_bytes())
    run_and_kill(work, folder, delays.uniform(0, longest))
"""


@pytest.mark.parametrize(
    ("work", "kills"),
    [("save", 14), pytest.param("train", 6, marks=pytest.mark.slow)],
)
def test_a_kill_leaves_the_old_model_or_the_new_one(
    homework, linear_model, tmp_path, work, kills
):
    homework.save_model(linear_model, {"number": -1}, tmp_path / "old.keras")
    old = digest(tmp_path / "old.keras")
    arguments = [str(tmp_path), work, "1", str(kills)]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT + KILL, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == kills
    in_the_middle = 0
    for folder, cause, told in lines:
        assert int(cause) == signal.SIGKILL
        path = tmp_path / folder / MODEL
        network, record = homework.load_model(path)
        saved = told.count("s")
        # the last that was told of, or the next, killed before it could tell
        assert record["number"] in (saved - 1, saved)
        if record["number"] == -1:
            assert digest(path) == old
        else:
            values = {float(x) for w in network.get_weights() for x in np.unique(w)}
            assert values == {record["number"]}
        in_the_middle += "t" in told or len(list(path.parent.iterdir())) > 1
        # what was left behind is gone after the next save
        homework.save_model(network, {}, path)
        assert list(path.parent.iterdir()) == [path]
    assert in_the_middle, "no kill came in the middle: the delays are wrong"


# ------------------------------------------- disks that are full or cannot be written


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount_read_only(folder: Path) -> None:
    """Forbid all writing, to root as well."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), (folder / "full").open("wb", 0) as file:
        while file.write(bytes(4096)):
            pass


def save_a_model(homework, model, folder: Path) -> None:
    """Save the model."""
    homework.save_model(model, {"number": 2}, folder / Path(MODEL).name)


def save_results(homework, model, folder: Path) -> None:
    """Save the images found."""
    images = np.zeros((2, 28, 28, 1), np.float32)
    targets, fits = homework.one_hot([1, 2]), np.zeros(2)
    found = homework.Optimization(targets, images, fits, fits[None], images[None])
    runs = {("random", "uniform"): found}
    homework.save_results(folder / "optimized_images.npz", model, runs, seed=0)


@pytest.mark.parametrize("save", [save_a_model, save_results])
@pytest.mark.parametrize(
    ("harm", "reason"),
    [(fill, "No space left on device"), (remount_read_only, "Read-only file system")],
)
def test_a_disk_that_takes_nothing_more_keeps_the_old_file(
    homework, linear_model, tmp_path, save, harm, reason
):
    with mounted(tmp_path / "disk", "size=16m") as folder:
        save(homework, linear_model, folder)
        (path,) = folder.iterdir()
        before = digest(path)
        harm(folder)
        names = {each.name for each in folder.iterdir()}
        with pytest.raises(OSError, match=reason) as caught:
            save(homework, linear_model, folder)
        message = str(caught.value)
        assert message.startswith(f"cannot write into the folder {folder}")
        assert "Move the notebook to a folder of your own, or make room" in message
        assert digest(path) == before
        assert {each.name for each in folder.iterdir()} == names


def test_a_disk_with_too_little_room_is_noticed_before_the_training(
    homework, linear_model, tmp_path
):
    """An empty file still fits, and so would a test of a few bytes."""
    with mounted(tmp_path / "disk", f"size={homework.ROOM // 2}") as folder:
        (folder / "small").write_bytes(b"a few bytes")
        with pytest.raises(OSError, match="No space left"):
            homework.check_writable(folder)
        assert [each.name for each in folder.iterdir()] == ["small"]


def test_the_room_that_is_asked_for_is_enough(homework):
    largest = max((ROOT / homework.MODEL_FILE, ROOT / homework.RESULTS_FILE), key=size)
    assert size(largest) < homework.ROOM


def size(path: Path) -> int:
    """Return the bytes of a file."""
    return path.stat().st_size


# ------------------------------------------------------------- what is not there


def test_without_the_gpu_that_was_asked_for_all_runs_on_the_cpu(tmp_path):
    code = """
        print(homework.gpu_count)
        options = dict(typical=np.ones((2, 10, 3)), weights=(0.1, 0.1, 0.1, 0.001))
        options |= dict(steps=2, rate=0.1, noise=0.5, shift=1, seed=1)
        options |= dict(settling_share=0.5)
        network, starts = homework.build_network(0.3, 1), np.zeros((1, 28, 28, 1))
        targets = homework.one_hot([2])
        found = homework.optimize_images(network, targets, starts, **options)
        print(np.isfinite(found.fits).all())
    """
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "nonsense"}
    done = run_program(tmp_path, code, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "True"]


# ------------------------------------------------------------------- little memory


def data_limit(gigabytes: float) -> Callable[[], None]:
    """Return what limits the memory of a process, before it begins."""
    size = int(gigabytes * 2**30)
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size))


@pytest.mark.slow
@pytest.mark.parametrize("gigabytes", [2, 1])
def test_with_little_memory_part_2_says_so_or_ends_well(tmp_path, gigabytes):
    """Which of them depends on the machine; the files are whole in any case."""
    for name in (DATA, MODEL):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    notebook = inject_parameters(read_notebook(find_notebook()), TINY)
    notebook = select_cells(notebook, under("Setup", "Part 2"))
    path = tmp_path / "part_2.ipynb"
    nbformat.write(notebook, path)
    before = {name: digest(tmp_path / name) for name in (DATA, MODEL, path.name)}
    done = subprocess.run(
        [sys.executable, ROOT / "tools/execute_notebook.py", path],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        preexec_fn=data_limit(gigabytes),
    )
    names = {x.relative_to(tmp_path).as_posix() for x in tmp_path.rglob("*.*")}
    if done.returncode == 0:
        assert names == {*before, RESULTS}
        before.pop(path.name)
    else:
        assert re.search(r"most often memory ran out|MemoryError|OOM", done.stderr)
        assert "left as it was" in done.stderr
        assert names == set(before)
    assert {name: digest(tmp_path / name) for name in before} == before


# --------------------------------------------------------------------- interrupted


@pytest.fixture(scope="module")
def descent(homework, linear_model) -> Callable:
    """A descent of twelve steps, in four calls, of which the last eight settle."""
    targets = np.concatenate([homework.one_hot([2, 7]), homework.half_way([(2, 3)])])
    starts = homework.make_starts("uniform", [1, 2, 3])
    options = dict(typical=np.ones((2, 10, 3)), weights=(0.1, 0.1, 0.1, 0.001))
    options |= dict(steps=12, rate=0.1, noise=0.5, shift=1, seed=1)
    options |= dict(settling_share=8 / 12, keep_every=3)
    return lambda **changes: homework.optimize_images(
        linear_model, targets, starts, **(options | changes)
    )


def interrupt_in_call(monkeypatch, homework, number: int) -> None:
    """Send the signal of Ctrl-C while a certain call of the loop runs."""
    calls, whole_descend = [], homework.descend

    def descend(*arguments):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return whole_descend(*arguments)

    monkeypatch.setattr(homework, "descend", descend)


def fits_of(homework, model, found) -> np.ndarray:
    """Return the fits of the images of a result."""
    return homework.divergence(found.targets, model(found.images)).numpy()


@pytest.mark.parametrize("number", [2, 3, 4])
def test_an_interrupted_descent_returns_what_was_found(
    homework, linear_model, descent, monkeypatch, capsys, number
):
    whole = descent()
    interrupt_in_call(monkeypatch, homework, number)
    found = descent()
    done = 3 * (number - 1)
    assert capsys.readouterr().out == f"interrupted after {done} of 12 steps\n"
    np.testing.assert_array_equal(found.history, whole.history[:done])
    np.testing.assert_array_equal(found.path[:-1], whole.path[: number - 1])
    np.testing.assert_array_equal(found.path[-1], found.images)
    fits = fits_of(homework, linear_model, found)
    np.testing.assert_allclose(found.fits, fits, rtol=1e-4, atol=1e-6)
    last = homework.round_pixels(whole.path[number - 1]).numpy()
    if number == 2:  # nothing has settled yet
        np.testing.assert_array_equal(found.images, last)
    seen = whole.history[4:done].min(axis=0, initial=np.inf)
    assert (found.fits <= seen * (1 + 1e-5)).all()


def test_an_interrupt_with_nothing_found_yet_stops_as_usual(
    homework, descent, monkeypatch, capsys
):
    interrupt_in_call(monkeypatch, homework, 1)
    with pytest.raises(KeyboardInterrupt):
        descent()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("keep_every", [1, 5, 12, 100])
def test_the_pieces_of_a_descent_do_not_show_in_its_result(descent, keep_every):
    whole, pieces = descent(), descent(keep_every=keep_every)
    for name in ("images", "fits", "history"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))
