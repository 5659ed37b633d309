"""The benchmarks: what they compute, and a run of each on tiny settings."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import common
import contestants
import numpy as np
import optimization
import pytest
import recipes
import training
from notebooks import ROOT
from optimization import BEST, NETWORKS
from scipy import stats

WANTED = np.array([3, 5])
# The others need packages that only `make benchmark` installs.
NAMES = contestants.OURS, "keras.io loop", "student's loop"


@pytest.fixture
def task(homework, linear_model):
    """A task on a small linear network."""
    digits = np.linspace(0, 1, 64 * 784, dtype=np.float32).reshape(64, 28, 28, 1)
    prior = np.zeros(784, np.float32), np.eye(784, dtype=np.float32)
    return contestants.Task(homework, linear_model, prior, digits)


@pytest.fixture
def folder(tmp_path):
    """A folder with the page and its markers."""
    shutil.copy(ROOT / "benchmarks" / "README.md", tmp_path)
    return tmp_path


@pytest.fixture
def small(homework, mnist, linear_model, monkeypatch):
    """The notebook's functions with part of the images, and quick judges."""
    sizes = 12_000, 12_000, 300, 300
    arrays = [x[:size] for x, size in zip(mnist, sizes, strict=True)]
    monkeypatch.setattr(homework, "load_mnist", lambda: arrays)
    monkeypatch.setattr(homework, "train_judges", lambda *_: [linear_model] * 2)
    monkeypatch.setattr(homework, "STEPS", 2)
    real = homework.measure_images(arrays[0][:500], arrays[1][:500])
    for program in (optimization, training):
        monkeypatch.setattr(program, "measure_real", lambda _: real)
    monkeypatch.setattr(optimization, "measure_step", lambda *_: [1.5])
    return homework


def section(folder, name):
    """Return what stands between the markers of a section of the page."""
    text = (folder / "README.md").read_text()
    return text.split(f"<!-- {name}: ")[1].split(f"<!-- end of {name}")[0]


# ----------------------------------------------------------------------- the shared


def test_the_interval_is_that_of_a_paired_t_test():
    gains = [0.3, -0.1, 0.4, 0.2, 0.6]
    expected = stats.ttest_rel(gains, np.zeros(5)).confidence_interval(0.95)
    mean, low, high = common.interval(gains)
    assert mean == pytest.approx(0.28)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    text = f"+0.28 ({expected.low:+.2f} to {expected.high:+.2f})"
    assert common.describe_gain(gains, ".2f") == text
    assert common.describe_gain([2.0, 2.0], ".0f") == "all +2"


def test_a_section_is_replaced_between_its_markers(tmp_path):
    path = tmp_path / "README.md"
    begin, end = "<!-- x: written by the program -->", "<!-- end of x -->"
    path.write_text(f"# Title\n{begin}\nold\n{end}\nafter")
    common.write_section(path, "x", "new")
    assert path.read_text() == f"# Title\n{begin}\n\nnew\n\n{end}\nafter"
    with pytest.raises(ValueError, match=r"expected one pair of markers '<!-- y: "):
        common.write_section(path, "y", "newer")
    assert "newer" not in path.read_text()


def test_images_are_measured_as_in_the_notebook(homework, linear_model, mnist):
    """Real digits as images: their own spread and thickness are 1."""
    digits, labels = (
        np.round(mnist[0][:1_000] * 255) / np.float32(255),
        mnist[1][:1_000],
    )
    real = homework.measure_images(digits, labels)
    judges = [linear_model] * 2
    found = common.measure(homework, judges, real, linear_model, digits, labels)
    logits = linear_model.predict(digits, verbose=0).astype(float)
    ours = logits[np.arange(1_000), labels] - np.log(np.exp(logits).sum(axis=1))
    assert found["fit"] == np.mean(ours >= np.log(0.99))
    right = (logits.argmax(axis=1) == labels)[labels == 4].mean()
    assert found["judges"][4] == pytest.approx(right, abs=1e-4)
    assert found["shape"][4] == pytest.approx(
        real["shape"][labels == 4].mean(), abs=1e-4
    )
    assert found["spread"] == found["thick"] == [1] * 10
    texts = common.describe_images(found | {"judges": [0.25] * 10})
    assert texts[0] == "25.0%" and texts[-2:] == ["1.00", "1.00"]


def test_rows_of_other_code_count_as_missing(tmp_path, homework):
    versions = {"a | 1": "new", "b | 1": "new", "c | 1": "new"}
    common.keep_row(tmp_path, "x", "a | 1", {"version": "new"})
    common.keep_row(tmp_path, "x", "b | 1", {"version": "old"})
    rows = common.read_record(tmp_path, "x")["rows"]
    assert common.find_missing(rows, versions) == ["b | 1", "c | 1"]
    text = common.describe_record(rows, versions)
    assert text.endswith("Of an earlier version: b, 1.\n\nNot measured yet: c, 1.")


def test_a_digest_is_that_of_the_code_and_not_of_its_comments(tmp_path, homework):
    def double(x):
        # twice
        return 2 * x

    first = double

    def double(x):
        return 2 * x

    assert common.digest(first) == common.digest(double)
    assert common.digest(first, 1) != common.digest(first, 2)
    assert common.digest(homework) != common.digest(homework.load_mnist)
    file = tmp_path / "network.keras"
    file.write_bytes(b"weights")
    before = common.digest(file)
    file.write_bytes(b"others")
    assert common.digest(file) != before


# ------------------------------------------------------------------ the contestants


@pytest.mark.parametrize("name", NAMES)
def test_contestants_return_images(task, name):
    contestant = contestants.CONTESTANTS[name]
    starts = task.homework.random_images([1, 2])
    for settings in ({}, *contestants.combine(contestant.grid)[1:2]):
        images = contestant.run(task, WANTED, starts, 3, 0, **settings)
        assert images.shape == (2, 28, 28, 1)
        assert images.min() >= 0 and images.max() <= 1
        assert np.abs(images - starts).max() > 1e-4


def test_bare_loop_follows_the_gradients(task):
    starts = task.homework.random_images([1, 2])
    weights, bias = task.network.get_weights()
    images = starts.reshape(2, 784)
    for _ in range(2):
        logits = images @ weights + bias
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        images = images - 0.01 * (shares - np.eye(10)[WANTED]) @ weights.T
    found = contestants.bare_gradients(task, WANTED, starts, 2, 0)
    np.testing.assert_allclose(found.reshape(2, 784), images, atol=1e-5)


def test_keras_io_moves_by_its_rate(task):
    starts = task.homework.random_images([1, 2])
    found = contestants.keras_io(task, WANTED, starts, 1, 0, rate=0.5, clip=True)
    way = (found - (0.5 + (starts - 0.5) / 4)).reshape(2, 784)
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 0.5, rtol=1e-3)
    weights = task.network.get_weights()[0][:, 3]  # of the wanted logit
    cosine = way[0] @ weights / np.linalg.norm(way[0]) / np.linalg.norm(weights)
    assert cosine == pytest.approx(1, abs=1e-3)


# --------------------------------------------------------------------- optimization


def test_optimization_goes_on_row_by_row(
    small, linear_model, folder, monkeypatch, capsys
):
    monkeypatch.setattr(small, "load_network", lambda _: linear_model)
    monkeypatch.setattr(optimization, "make_search_judge", lambda _: linear_model)
    for name in NAMES[1:]:
        few = contestants.CONTESTANTS[name]._replace(steps=2, images=20)
        monkeypatch.setitem(contestants.CONTESTANTS, name, few)
    text = f"--folder {folder} --draws 2 --contestants"
    first = optimization.parse([*text.split(), *NAMES[:2]])
    optimization.search_all(small, first)
    tuned = common.read_record(folder, "tuned_settings")["rows"]
    assert list(tuned) == ["keras.io loop"]
    tried = tuned["keras.io loop"]["tried"]
    assert tried[0][0] == {} and len(tried) >= 6
    optimization.measure_all(small, first)
    rows = common.read_record(folder, "optimization")["rows"]
    names = [BEST, "keras.io loop | defaults", "keras.io loop | tuned"]
    keys = [f"{network} | {name}" for network in NETWORKS for name in names]
    assert list(rows) == keys
    for network in NETWORKS:
        picture = (folder / f"gallery_{network}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    written = section(folder, "optimization")
    assert written.count("| keras.io loop | tuned | 2 |") == 2
    assert "Not measured yet: notebook, tf-keras-vis, defaults; " in written
    assert "| open |" in written and "| met |" not in written
    capsys.readouterr()
    optimization.search_all(small, first)
    optimization.measure_all(small, optimization.parse([*text.split(), *NAMES]))
    again = common.read_record(folder, "optimization")["rows"]
    assert {key: again[key] for key in rows} == rows
    new = {f"{network} | student's loop | defaults" for network in NETWORKS}
    assert set(again) - set(rows) == new
    assert "keras.io" not in capsys.readouterr().out
    # a wider grid is searched anew
    wider = {"rate": (0.1, 1.0), "clip": (True,)}
    few = contestants.CONTESTANTS["keras.io loop"]._replace(grid=wider)
    monkeypatch.setitem(contestants.CONTESTANTS, "keras.io loop", few)
    optimization.search_all(small, first)
    assert "keras.io" in capsys.readouterr().out


@pytest.mark.parametrize("program", [optimization, training])
def test_the_page_shows_the_stored_figures(folder, program, homework):
    name = program.__name__
    shutil.copytree(common.FOLDER / "results", folder / "results")
    committed = section(folder, name)
    tuned = common.read_record(folder, "tuned_settings")["rows"]
    versions = (
        training.find_versions(homework, training.parse([]))
        if program is training
        else optimization.find_versions(homework, tuned, homework.STEPS)
    )
    program.render(folder, versions)
    assert section(folder, name) == committed


def test_targets_are_met_only_by_an_interval_above_zero():
    ours = {"shape": [1.0] * 10, "judges": [0.9] * 10, "budgets": [[200, 1.0, 9.0]]}
    peer = {"shape": [0.5, 0.6] * 5, "judges": [0.9] * 10, "budgets": [[200, 0.4, 2]]}
    rows = {BEST: ours, "peer | tuned": peer}
    assert np.mean(optimization.lead(rows, "peer | tuned", "shape")) == 45

    def verdicts(step, complete=True):
        text = optimization.check_targets({"notebook": rows}, step, complete)
        return [line.split(" | ")[-1].strip(" |") for line in text.splitlines()[2:]]

    # step, shape, judges, time
    assert verdicts([1.1, 1.3, 1.2]) == ["met", "met", "**missed**", "met"]
    assert verdicts([1.3, 1.3])[0] == "**missed**"
    assert verdicts([1.1], complete=False) == ["open"] * 4


def test_time_to_fit_is_the_median_of_the_shortest_runs_that_got_there():
    budgets = [[200, 1.0, 9.0], [100, 0.97, 4.0], [50, 0.2, 2.0]]
    budgets += [[100, 0.97, 3.0], [100, 0.97, 8.0]]
    assert optimization.time_to_fit({"budgets": budgets}) == 4
    assert optimization.time_to_fit({"budgets": budgets[2:3]}) == np.inf


def test_neighbors_and_edges_of_a_grid():
    grid = {"rate": (0.1, 1.0, 10.0, 20.0), "ink": (0.0, 1.0, 2.0, 3.0)}
    grid["clip"] = (False, True)
    settings = {"rate": 0.1, "ink": 2.0, "clip": True}
    assert optimization.list_neighbors(grid, settings) == [
        {"rate": 1.0, "ink": 2.0, "clip": True},
        {"rate": 0.1, "ink": 1.0, "clip": True},
        {"rate": 0.1, "ink": 3.0, "clip": True},
        {"rate": 0.1, "ink": 2.0, "clip": False},
    ]
    assert optimization.list_neighbors(grid, {}) == []
    assert optimization.find_edges(grid, settings) == ["rate"]
    assert optimization.find_edges(grid, settings | {"rate": 1.0, "ink": 0.0}) == []


# ------------------------------------------------------------------------- training


def test_peers_are_built_as_published(homework):
    simple, deotte = recipes.build_simple(homework), recipes.build_deotte(homework)
    assert simple.count_params() == 34_826  # what keras.io's page prints
    kinds = [type(layer).__name__ for layer in deotte.layers]
    assert (kinds.count("Conv2D"), kinds.count("BatchNormalization")) == (7, 7)
    residual = recipes.build_residual(homework)
    maps = [x.output.shape[1:] for x in residual.layers if type(x).__name__ == "Add"]
    # three poolings, of which only the last one rounds up
    assert maps == [(28, 28, 128), (14, 14, 128), (7, 7, 256), (4, 4, 512)]


def test_the_cycle_of_rate_and_momentum(homework):
    """From 5e-5 over 4e-4 at 0.3 to 1.6e-5; from 0.95 to 0.6 at 0.3, and then there."""
    keras = homework.keras
    optimizer = keras.optimizers.Adam()
    optimizer.beta_1 = keras.Variable(0.9, trainable=False)
    expected = {0: (5e-5, 0.95), 0.15: (2.25e-4, 0.775), 0.3: (4e-4, 0.6)}
    expected |= {0.65: (2.08e-4, 0.6), 1: (1.6e-5, 0.6), 1.1: (1.6e-5, 0.6)}
    for past, values in expected.items():
        recipes.follow_cycle(optimizer, past)
        found = float(optimizer.learning_rate), float(optimizer.beta_1)
        assert found == pytest.approx(values, rel=1e-3)


def test_trainings_go_on_where_one_stopped(
    small, linear_model, folder, monkeypatch, capsys
):
    build = small.keras.models.clone_model
    for module, name in ((small, "build_network"), (recipes, "build_residual")):
        monkeypatch.setattr(module, name, lambda *_: build(linear_model))
    monkeypatch.setattr(training, "load_homework", lambda: small)
    part = "without any noise"
    jobs = [("the notebook", 1), ("keras.io", 1), ("ttdoucet", 1), (part, 1)]
    for name, value in (("IMAGES", 20), ("JOBS", jobs), ("BUDGETS", (0, 1_600))):
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(recipes, "READINGS", (0, 1_600))
    # in this process, one after the other
    pools = lambda *_, **__: ThreadPoolExecutor(1)  # noqa: E731
    monkeypatch.setattr(training, "ProcessPoolExecutor", pools)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    text = f"--folder {folder} --images 256 --epochs 1 --workers 1"
    real, made = training.measure_training, []

    def fail_once(name, *amounts):
        made.append(name)
        if made.count("keras.io") == 1 and name == "keras.io":
            raise MemoryError("no room")
        return real(name, *amounts)

    monkeypatch.setattr(training, "measure_training", fail_once)
    training.run(training.parse(text.split()))
    assert "keras.io | 1 failed: MemoryError('no room')" in capsys.readouterr().out
    assert "Not measured yet: keras.io, 1." in section(folder, "training")
    training.run(training.parse(text.split()))
    rows = common.read_record(folder, "training")["rows"]
    assert set(rows) == {f"{name} | 1" for name, _ in jobs}
    for row in rows.values():
        (mark, *_), (_, seconds, steps, accuracy) = row["curve"]
        assert mark == 0 and seconds > 0 and steps in (2, 3) and 0 <= accuracy <= 1
    assert len(rows[f"{part} | 1"]["shape"]) == 10
    assert "shape" not in rows["keras.io | 1"]
    written = section(folder, "training")
    assert f"| {part} | 1 |" in written and "Not measured yet: none." in written

    training.run(training.parse(text.split()))  # nothing is missing
    assert section(folder, "training") == written
    assert made.count("keras.io") == 2 and len(made) == len(jobs) + 1


def test_the_clock_stops_at_the_budget_and_leaves_validation_out(
    homework, linear_model, mnist, monkeypatch
):
    """Every look at the time is a second later, and validation takes a hundred."""
    time = iter(range(10_000))
    monkeypatch.setattr(recipes.time, "process_time", lambda: next(time))
    monkeypatch.setattr(recipes, "READINGS", (3, 5, 40))
    network = homework.keras.models.clone_model(linear_model)

    def answer(*_: object, **__: object) -> np.ndarray:
        for _ in range(100):
            next(time)
        return np.eye(10)[[0, 1]]

    network.predict = answer
    network.compile("sgd", homework.keras.losses.CategoricalCrossentropy(True))
    targets = np.eye(10, dtype="float32")
    clock = recipes.make_clock(homework, (mnist[0][:2], targets[[0, 2]]), 40)
    digits = mnist[0][:1_000], targets[mnist[1][:1_000]]
    network.fit(*digits, batch_size=10, callbacks=[clock], verbose=0)
    marks = [(mark, accuracy) for mark, _, _, accuracy in clock.curve]
    assert marks == [(3, 0.5), (5, 0.5), (40, 0.5)]
    assert 40 <= clock.curve[-1][1] < 50 and clock.steps < 100


def run_of(*points, shape=(1.0,) * 10):
    """Return a stored training that read so well after so many seconds."""
    curve = [[seconds, seconds, 10 * seconds, value] for seconds, value in points]
    found = dict.fromkeys(
        ("judges", "one piece", "gray", "spread", "thick"), [0.5] * 10
    )
    return {"curve": curve, "test": 0.99, "fit": 1.0, "shape": list(shape)} | found


def test_an_order_is_told_only_where_the_seeds_agree():
    ahead = {str(i): run_of((50, 0.97 + i / 1e4), (400, 0.99)) for i in range(3)}
    behind = {str(i): run_of((50, 0.96), (400, 0.99 + i / 100)) for i in range(3)}
    groups = {"the notebook": ahead, "keras.io": behind}
    lines = training.pair_table(groups).splitlines()[2:]
    assert len(lines) == 2  # nothing changes before 400 seconds, nor after
    assert "| 100 | +1.00, +1.01, +1.02 | +1.01 (" in lines[0]
    assert lines[0].endswith("| ours |")
    assert "| 400 |" in lines[1] and lines[1].endswith("| no order can be told |")
    assert "| 3 | 97.01 % | 97.01 % | 99.00 % |" in training.budget_table(groups)
    del behind["2"]  # of two seeds nothing is told
    assert len(training.pair_table(groups).splitlines()) == 2


def test_what_a_part_gives_is_paired_by_seed():
    whole = {str(i): run_of((5, 0.99)) for i in range(3)}
    less = {str(i): run_of((5, 0.98), shape=[0.9 - i / 10] * 10) for i in range(3)}
    groups = {"the notebook": whole, "without blots": less}
    line = training.loss_table(groups).splitlines()[2]
    assert line.startswith("| without blots | 3 | all +1.00 | all +0.0 | +20.0 (")


def test_the_speed_of_a_training_leaves_its_first_reading_out():
    """450 steps of 128 images in 45 seconds."""
    groups = {"the notebook": {"1": run_of((5, 0.9), (50, 0.97))}}
    assert "| 1,280 | 99.00% |" in training.end_table(groups)


def test_the_worst_digit_is_the_one_with_the_fewest_right_shapes():
    shape = [1.0] * 10
    shape[8] = 0.25
    groups = {"without blots": {"1": run_of((5, 0.9), shape=shape)}}
    assert training.part_table(groups).endswith("| 0.25 (8) |")
