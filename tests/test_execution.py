"""The notebook as it is run: whole, in parts, twice, and when something is wrong."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import ROOT, find_notebook, run_notebook, select_cells, under
from execute_notebook import (
    execute,
    find_faults,
    inject_parameters,
    output_text,
    read_notebook,
    tags,
)
from make_submission import REHEARSAL as TINY
from nbclient.exceptions import CellExecutionError

DATA, MODEL = "data/mnist.npz", "models/mnist_cnn.keras"
RESULTS = "results/optimized_images.npz"
PART_1, PART_2 = under("Setup", "Part 1"), under("Setup", "Part 2")
REMEDY = "Run Part 1 with RETRAIN = True"


def before_the_judges(path: tuple[str, ...]) -> bool:
    """Choose Setup, Part 2 up to all digits, and the playground."""
    whole = under("Setup", "Part 2", "Playground")(path)
    return whole and not under("4b", "4c", "Beyond")(path)


def before_the_report(path: tuple[str, ...]) -> bool:
    """Choose Setup and the code of Part 1, with the training."""
    return PART_1(path) and not under("Results", "Comments")(path)


def text_of(notebook: nbformat.NotebookNode) -> str:
    """Return all that a run has printed."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "\n".join(output_text(o) for cell in cells for o in cell.outputs)


def failure_of(tmp_path: Path, **options) -> CellExecutionError:
    """Return the error that a run ends with."""
    with pytest.raises(CellExecutionError) as caught:
        run_notebook(tmp_path, TINY, **options)
    return caught.value


def place_file(tmp_path: Path, name: str) -> Path:
    """Copy a file of the project to its place in a folder."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, path)
    return path


# ------------------------------------------------------------- the whole notebook


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory) -> Path:
    """The folder of a run of all cells, with nothing but the data beside."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole_run(whole_folder) -> nbformat.NotebookNode:
    """A run of all cells."""
    return run_notebook(whole_folder, TINY, copy=[DATA])


def test_all_cells_run_and_their_outputs_are_clean(whole_run, whole_folder):
    assert not find_faults(whole_run, whole_folder)


@pytest.mark.usefixtures("whole_run")
def test_a_run_writes_the_model_and_the_results_and_nothing_else(whole_folder):
    files = {
        path.relative_to(whole_folder).as_posix()
        for path in whole_folder.rglob("*")
        if path.is_file()
    }
    assert files == {find_notebook().name, DATA, MODEL, RESULTS}


@pytest.mark.usefixtures("whole_run")
def test_the_saved_model_holds_its_record(homework, whole_folder):
    network, record = homework.load_model(whole_folder / MODEL)
    assert network.count_params() == 608_138
    assert set(record) == {"history", "seconds", "check_logits"}
    assert len(record["history"]["val_accuracy"]) == TINY["EPOCHS"]
    assert np.shape(record["check_logits"]) == (homework.CHECKED_IMAGES, 10)


@pytest.mark.usefixtures("whole_run")
def test_every_run_of_every_experiment_is_stored(homework, whole_folder):
    with np.load(whole_folder / RESULTS, allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    seeds, levels = TINY["STUDY_SEEDS"], len(homework.NOISE_LEVELS)
    counts = Counter(stored["experiment"].tolist())
    expected = {
        "digit_2": TINY["RANDOM_STARTS"],
        "starts": 2 * 9 * seeds,
        "random": 10 * TINY["SEEDS_PER_DIGIT"],
        "noisy_digit": 10 * levels * TINY["NOISY_PER_DIGIT"],
        "soft": TINY["SOFT_SEEDS"] + 3 * seeds,
        "pairs": 45 * TINY["SEEDS_PER_PAIR"],
        "naive": 10 * TINY["CONTROLS_PER_DIGIT"],
        "fit alone": 10 * TINY["CONTROLS_PER_DIGIT"],
    }
    assert {name: counts[name] for name in expected} == expected
    number = counts.total()
    assert {name: array.shape for name, array in stored.items()} == {
        "images": (number, 28, 28),
        "targets": (number, 10),
        "probabilities": (number, 10),
        "experiment": (number,),
        "init": (number,),
        "seed": (number,),
    }
    assert stored["images"].dtype == np.uint8
    assert stored["targets"].dtype == stored["probabilities"].dtype == np.float32
    assert stored["seed"].dtype == np.int64
    for name in ("targets", "probabilities"):
        np.testing.assert_allclose(stored[name].sum(axis=1), 1, atol=1e-4)


@pytest.mark.usefixtures("whole_run")
def test_stored_probabilities_are_those_of_the_saved_model(homework, whole_folder):
    network, _ = homework.load_model(whole_folder / MODEL)
    with np.load(whole_folder / RESULTS) as file:
        answers = homework.predict(network, homework.to_images(file["images"]))
        np.testing.assert_allclose(answers, file["probabilities"], atol=1e-4)


# ------------------------------------------------------------------------- parts


def test_part_2_runs_alone_with_the_model_of_the_project(tmp_path):
    notebook = run_notebook(tmp_path, TINY, cells=PART_2)
    assert not find_faults(notebook, tmp_path)
    assert f"{MODEL}: logits differ from those stored by at most" in text_of(notebook)
    assert (tmp_path / RESULTS).exists()
    assert (tmp_path / MODEL).read_bytes() == (ROOT / MODEL).read_bytes()


def test_running_twice_in_one_kernel_gives_the_same_outputs(tmp_path):
    notebook = run_notebook(tmp_path, TINY, cells=before_the_judges, repeat=2)
    assert not find_faults(notebook, tmp_path)
    half = len(notebook.cells) // 2
    for first, second in zip(notebook.cells[:half], notebook.cells[half:], strict=True):
        assert first.source == second.source
        if first.cell_type == "code":
            shown = [
                [output.get("text") or output.get("data") for output in cell.outputs]
                for cell in (first, second)
            ]
            assert shown[0] == shown[1], first.source


def test_a_saved_model_is_reported_without_training(homework, tmp_path):
    options = TINY | {"RETRAIN": False}
    notebook = run_notebook(tmp_path, options, cells=PART_1)
    assert not find_faults(notebook, tmp_path)
    _, record = homework.load_model(ROOT / MODEL)
    loaded = f"loaded {MODEL}, trained in {record['seconds']:.0f} s"
    assert loaded in text_of(notebook)
    assert (tmp_path / MODEL).read_bytes() == (ROOT / MODEL).read_bytes()


# ---------------------------------------------------------------------- versions


def run_imports(notebook, monkeypatch, package: str, version: str) -> None:
    """Run the first code cell where one package has another version."""
    (cell,) = (cell for cell in notebook.cells if "imports" in tags(cell))
    if package == "Python":
        monkeypatch.setattr("platform.python_version", lambda: version)
    else:
        monkeypatch.setattr(f"{package.lower()}.__version__", version)
    exec(cell.source, {})


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("Python", "3.10.14"),
        ("Python", "3.9.2"),
        ("TensorFlow", "2.18.1"),
        ("TensorFlow", "1.15.5"),
        ("Keras", "3.9.2"),
        ("Keras", "2.15.0"),
    ],
)
def test_an_older_version_is_refused_with_the_remedy(
    homework, notebook, monkeypatch, package, version
):
    oldest = homework.TESTED[package][0]
    message = f"expected {package} {oldest} or newer, got {version}. Get a newer one"
    with pytest.raises(ImportError, match=re.escape(message)) as caught:
        run_imports(notebook, monkeypatch, package, version)
    assert "pip install -U tensorflow keras" in str(caught.value)


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("Python", "3.14.0rc2"),
        ("TensorFlow", "2.30.0-dev20270101"),
        ("TensorFlow", "3.0.0"),
        ("Keras", "4.0"),
    ],
)
def test_a_newer_version_is_tried_with_a_remark(
    homework, notebook, monkeypatch, capsys, package, version
):
    run_imports(notebook, monkeypatch, package, version)
    newest = homework.TESTED[package][1]
    expected = f"{package} {version} is newer than any tried: {newest}\n"
    assert capsys.readouterr().out == expected


def test_a_tested_version_needs_no_remark(homework, notebook, monkeypatch, capsys):
    for package, limits in homework.TESTED.items():
        for limit in limits:
            run_imports(notebook, monkeypatch, package, f"{limit}.9")
    assert capsys.readouterr().out == ""


# -------------------------------------------------------- when something is wrong


def test_without_data_and_network_the_notebook_says_what_to_do(tmp_path, monkeypatch):
    empty = tmp_path / "home"
    empty.mkdir()
    for name in ("HOME", "USERPROFILE", "KERAS_HOME"):
        monkeypatch.setenv(name, str(empty))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    error = failure_of(tmp_path, cells=PART_1, copy=[])
    assert error.ename == "RuntimeError"
    assert f"there is no file {DATA}" in error.evalue
    assert "Connect to the network, or put that file beside" in error.evalue
    assert not (tmp_path / MODEL).exists()


def test_nothing_is_trained_on_changed_data(tmp_path, mnist):
    path, model = tmp_path / DATA, place_file(tmp_path, MODEL)
    path.parent.mkdir()
    pixels = mnist["x_train"].copy()
    pixels[30_000, 14, 14] ^= 1
    np.savez(path, **(mnist | {"x_train": pixels}))
    error = failure_of(tmp_path, cells=PART_1, copy=[])
    assert error.ename == "ValueError"
    assert f"x_train in {DATA} is not the published MNIST" in error.evalue
    assert "Delete" in error.evalue
    assert model.read_bytes() == (ROOT / MODEL).read_bytes()


def no_file(homework, path: Path) -> None:
    path.unlink()


def truncated_file(homework, path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_shapes(homework, path: Path) -> None:
    keras = homework.keras
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    homework.save_model(keras.Model(inputs, outputs), {}, path)


def other_weights(homework, path: Path) -> None:
    """Save an untrained network under the record of the trained one."""
    _, record = homework.load_model(path)
    homework.save_model(homework.build_network(0.3, seed=9), record, path)


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (no_file, "FileNotFoundError", f"there is no model {MODEL}"),
        (truncated_file, "ValueError", f"{MODEL} is not a complete model"),
        (other_shapes, "ValueError", f"{MODEL} maps (32, 32, 3) to (10,)"),
        (other_weights, "ValueError", f"{MODEL} answers otherwise than"),
    ],
)
def test_part_2_refuses_a_model_that_it_cannot_trust(
    homework, tmp_path, damage, name, message
):
    place_file(tmp_path, DATA)
    model = place_file(tmp_path, MODEL)
    damage(homework, model)
    before = model.read_bytes() if model.exists() else None
    error = failure_of(tmp_path, cells=PART_2, copy=[])
    assert error.ename == name
    assert message in error.evalue
    assert REMEDY in error.evalue
    assert (model.read_bytes() if model.exists() else None) == before


STOP_IN_TRAINING = """
whole_fit = keras.Model.fit


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


def fit_until_stopped(model, *arguments, callbacks, **options):
    return whole_fit(model, *arguments, callbacks=[*callbacks, Stop()], **options)


keras.Model.fit = fit_until_stopped
"""


def test_stopping_the_training_keeps_the_old_model(tmp_path):
    place_file(tmp_path, DATA)
    model = place_file(tmp_path, MODEL)
    notebook = inject_parameters(read_notebook(find_notebook()), TINY)
    notebook = select_cells(notebook, before_the_report)
    imports = next(i for i, c in enumerate(notebook.cells) if "imports" in tags(c))
    cell = nbformat.v4.new_code_cell(STOP_IN_TRAINING, id="stop")
    notebook.cells.insert(imports + 1, cell)
    with pytest.raises(CellExecutionError) as caught:
        execute(notebook, tmp_path)
    assert caught.value.ename == "KeyboardInterrupt"
    assert (
        "nothing was saved; a model saved earlier is as it was" in caught.value.evalue
    )
    assert "set RETRAIN = False" in caught.value.evalue
    assert list(model.parent.iterdir()) == [model]
    assert model.read_bytes() == (ROOT / MODEL).read_bytes()


def test_a_folder_that_cannot_be_written_is_noticed_before_the_training(tmp_path):
    place_file(tmp_path, DATA)
    (tmp_path / "models").write_text("a file where the folder should be")
    error = failure_of(tmp_path, cells=before_the_report, copy=[])
    assert error.ename == "OSError"
    assert "cannot write into the folder models" in error.evalue
    assert "Move the notebook to a folder of your own" in error.evalue
