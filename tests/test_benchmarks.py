"""The benchmarks: what they compute, and a run of each on tiny settings."""

from __future__ import annotations

import json
import shlex
import shutil

import common
import contestants
import growth
import numpy as np
import optimization
import pytest
import training
import twin
from notebook import ROOT

pytestmark = pytest.mark.skip(
    reason="benchmarks/ measures the first version of the notebook until redone"
)

PEERS = {
    "tf-keras-vis": "tf_keras_vis",
    "Xplique, pixels": "xplique",
    "Xplique, Fourier": "xplique",
    "Xplique, MaCo": "xplique",
    "ART MIFace": "art",
}
SETTINGS = {"epochs": 1, "batch_size": 128, "seed": 1}


def require(name):
    """Skip the test if a contestant's package is not installed."""
    if name in PEERS:
        reason = f"{name} is installed by `make benchmark` only"
        pytest.importorskip(PEERS[name], reason=reason)


@pytest.fixture(scope="module")
def small_mnist(homework, mnist):
    """As `load_mnist`, but with a part of the images."""
    arrays = {name: x[: 1500 if "train" in name else 300] for name, x in mnist.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homework, "load_mnist", lambda: tuple(arrays.values()))
        patch.setattr(homework, "VALIDATION_IMAGES", 300)
        patch.chdir(ROOT)
        yield arrays


@pytest.fixture(scope="module")
def yardsticks(homework, small_mnist):
    """Judges and distances from few images, made once."""
    task = optimization.make_task(homework, None)
    return optimization.make_yardsticks(homework, task)


@pytest.fixture
def small_network(homework, monkeypatch):
    """In place of the notebook's network one that is compiled sooner."""

    def build(dropout, seed):
        homework.keras.utils.set_random_seed(seed)
        layers = homework.layers
        inputs = homework.keras.Input(homework.IMAGE_SHAPE)
        x = layers.Flatten()(layers.Conv2D(2, 5, 4, activation="relu")(inputs))
        outputs = layers.Dense(10, name="logits")(layers.Dropout(dropout)(x))
        return homework.keras.Model(inputs, outputs)

    monkeypatch.setattr(homework, "build_network", build)


@pytest.fixture
def task(homework, linear_model):
    """A task on the small linear model."""
    typical = np.ones((2, 10, 3), np.float32)
    digits = np.linspace(0, 1, 64 * 784, dtype=np.float32).reshape(64, 28, 28, 1)
    return contestants.Task(homework, linear_model, typical, digits)


@pytest.fixture
def folder(tmp_path):
    """A folder with the README and its markers."""
    shutil.copy(ROOT / "benchmarks" / "README.md", tmp_path)
    return tmp_path


def tables_of(folder, section):
    """Return the lines of the tables in a section of the README."""
    text = (folder / "README.md").read_text()
    inside = text.split(f"<!-- {section}: ")[1].split(f"<!-- end of {section}")[0]
    return [line for line in inside.splitlines() if line.startswith("|")]


# ----------------------------------------------------------------------- the shared


def test_alternate_takes_turns_after_a_round_that_does_not_count():
    calls = []
    tasks = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = common.alternate(tasks, 3)
    assert "".join(calls) == "abababab"
    assert [len(x) for x in seconds.values()] == [3, 3]


def test_slope_is_the_exponent_of_a_power_law():
    sizes = np.array([1, 2, 5, 30])
    assert common.slope(sizes, 3 * sizes**1.5) == pytest.approx(1.5)


def test_bootstrap_gives_the_interval_of_a_mean():
    assert common.bootstrap(np.full(5, 2.0)) == (2, 2, 2)
    noise = np.random.default_rng(1).normal(0.3, 1, 400)
    mean, low, high = common.bootstrap(noise)
    assert mean == pytest.approx(noise.mean())
    half = 1.96 * noise.std() / 20
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)


def test_a_section_is_replaced_between_its_markers(tmp_path):
    path = tmp_path / "README.md"
    lines = "# Title", "<!-- x: written by the program -->", "old", "<!-- end of x -->"
    path.write_text("\n".join([*lines, "after"]))
    common.write_section(path, "x", "new")
    assert (
        path.read_text().split()
        == " ".join([*lines, "after"]).replace("old", "new").split()
    )
    with pytest.raises(ValueError, match=r"expected one pair of markers '<!-- y: "):
        common.write_section(path, "y", "new")
    assert "new" in path.read_text()
    assert [x.name for x in tmp_path.iterdir()] == ["README.md"]


def test_the_machine_is_described_without_its_name():
    text = common.describe_machine()
    assert "cores" in text and "tensorflow 2" in text
    assert common.platform.node() not in text


@pytest.mark.parametrize("section", ["optimization", "growth", "training"])
def test_readme_holds_what_the_programs_wrote(homework, folder, section):
    results = ROOT / "benchmarks" / "results"
    if not (results / f"{section}.json").exists():
        pytest.skip(f"{section} has not been measured yet: run make benchmark")
    shutil.copytree(results, folder / "results")
    before = tables_of(folder, section)
    assert len(before) > 5
    if section == "growth":
        growth.render(folder)
    else:
        {"optimization": optimization, "training": training}[section].render(
            folder, homework
        )
    assert tables_of(folder, section) == before


# ------------------------------------------------------------------ the contestants


@pytest.mark.parametrize("name", [
    "optimize_images", "tf-keras-vis", "Xplique, pixels", "Xplique, Fourier",
    "Xplique, MaCo", "ART MIFace", "keras.io loop", "student's loop",
])  # fmt: skip
def test_contestants_return_images(homework, task, name):
    require(name)
    contestant = contestants.list_contestants(homework)[name]
    labels, starts = np.array([3, 5]), homework.make_starts("uniform", [1, 2])
    for run, settings in (
        (contestant.run, contestant.grid[0]),
        (contestant.timed, contestant.defaults),
    ):
        images = run(task, labels, starts, 3, 0, **settings)
        assert images.shape == (2, 28, 28, 1)
        assert images.min() >= 0 and images.max() <= 1
        assert np.abs(images - starts).max() > 1e-4


def test_bare_loop_follows_the_gradients(homework, task):
    labels, starts = np.array([3, 5]), homework.make_starts("uniform", [1, 2])
    weights, bias = task.model.get_weights()
    images = starts.reshape(2, 784)
    for _ in range(2):
        logits = images @ weights + bias
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        images = images - 0.01 * (shares - homework.one_hot(labels)) @ weights.T
    found = contestants.bare_gradients(task, labels, starts, 2, 0)
    np.testing.assert_allclose(found.reshape(2, 784), images, atol=1e-5)


def test_students_images_are_those_of_all_at_once(homework, task):
    amount = task, np.array([3, 5]), homework.make_starts("uniform", [1, 2]), 3, 0
    one_by_one = contestants.student(*amount, rate=10.0)
    together = contestants.student_together(*amount, rate=10.0)
    np.testing.assert_allclose(one_by_one, together, atol=1 / 255)


def test_keras_io_moves_by_its_rate(homework, task):
    starts = homework.make_starts("uniform", [1, 2])
    found = contestants.keras_io(
        task, np.array([3, 5]), starts, 1, 0, rate=0.5, clip=True
    )
    way = (found - (0.5 + (starts - 0.5) / 4)).reshape(2, 784)
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 0.5, rtol=1e-3)
    # along the weights of the wanted logit
    weights = task.model.get_weights()[0][:, 3]
    cosine = way[0] @ weights / np.linalg.norm(way[0]) / np.linalg.norm(weights)
    assert cosine == pytest.approx(1, abs=1e-3)


def test_tf_keras_vis_makes_the_same_images_one_by_one(homework, task):
    require("tf-keras-vis")
    amount = task, np.array([3, 5]), homework.make_starts("uniform", [1, 2]), 4, 0
    settings = dict(tuned=True, variation=3.0, soft=True)
    together = contestants.tf_keras_vis(*amount, **settings)
    single = contestants.tf_keras_vis_single(*amount, **settings)
    np.testing.assert_allclose(single, together, atol=1e-4)


# ------------------------------------------------------------------------- the twin


def test_twin_is_made_once_for_each_setting(
    homework, small_mnist, small_network, tmp_path, monkeypatch
):
    network, record = twin.load_twin(homework, tmp_path, SETTINGS, count=200)
    assert [x.name for x in tmp_path.iterdir()] == ["plain_twin.keras"]
    monkeypatch.setattr(homework.keras.Model, "fit", None)
    again, _ = twin.load_twin(homework, tmp_path, SETTINGS, count=200)
    starts = homework.make_starts("uniform", [1])
    np.testing.assert_array_equal(network(starts), again(starts))
    assert 0 <= record["validation_accuracy"] <= 1
    with pytest.raises(TypeError, match="not callable"):  # it would be trained anew
        twin.load_twin(homework, tmp_path, SETTINGS | {"epochs": 2})


def test_the_stored_twin_is_up_to_date(homework):
    _, record = homework.load_model(ROOT / "benchmarks" / "plain_twin.keras")
    assert record["digest"] == twin.digest(homework, twin.SETTINGS)


# --------------------------------------------------------------------- optimization


def test_optimization_runs_on_tiny_settings(
    homework, small_mnist, yardsticks, folder, linear_model, monkeypatch
):
    require("tf-keras-vis")
    (folder / "results").mkdir()
    names = ["optimize_images", "tf-keras-vis", "keras.io loop", "student's loop"]
    load = {"robust": linear_model, "plain": linear_model}
    monkeypatch.setattr(optimization, "load_models", lambda *_: load)
    monkeypatch.setattr(optimization, "make_yardsticks", lambda *_: yardsticks)
    monkeypatch.setattr(optimization, "measure_memory", lambda x: dict.fromkeys(x, 1))
    arguments = ["--folder", str(folder), "--seeds", "1", "--most-steps", "2"]
    arguments += ["--steps", "2", "--repetitions", "2", "--contestants", *names]
    # the settings are searched on the way, since none are stored
    optimization.run(homework, optimization.parse(arguments))
    record = json.loads((folder / "results" / "optimization.json").read_text())
    rates = record["speed"]["rates"]
    assert set(rates) == {*names, optimization.BARE, optimization.TOGETHER}
    assert all(len(values) == 2 and min(values) > 0 for values in rates.values())
    assert len(record["speed"]["engine"]) == 4
    for model in load:
        for name in names:
            entry = record["quality"][model][name]["tuned"]
            assert np.shape(entry["right"]) == (3, 10)
            assert len(entry["fits"]) == len(entry["percentiles"]) == 10
    lines = tables_of(folder, "optimization")
    assert (
        sum(line.startswith("| keras.io loop | tuned | 10 | 2 |") for line in lines)
        == 2
    )
    for plot in ("optimization", "gallery_robust", "gallery_plain"):
        assert (folder / f"{plot}.png").read_bytes().startswith(b"\x89PNG")


def test_memory_is_weighed_in_megabytes(homework, small_mnist):
    assert 0 <= optimization.weigh(homework, "keras.io loop") < 10_000


def entry(right, fits=(1e-4, 1e-4), budgets=((250, 1.0, 9.0),)):
    """Return a stored result for two images."""
    return {
        "wanted": [0, 1],
        "right": right,
        "fits": list(fits),
        "percentiles": [50, 99],
        "budgets": budgets,
        "steps": 250,
    }


def test_targets_are_met_only_by_an_interval_above_zero():
    perfect, half = [[True, True]] * 3, [[False, False]] * 3
    found = {
        name: dict.fromkeys(optimization.KINDS, entry(right))
        for name, right in ((optimization.OURS, perfect), ("peer", half))
    }
    rates = {optimization.OURS: [300.0, 300], "student's loop": [2.0, 4]}
    rates |= {"tf-keras-vis": [100.0, 100], optimization.BARE: [330.0, 330]}
    speed = {"rates": rates, "engine": [1.1, 1.3, 1.1]}
    record = {"speed": speed, "quality": {"plain": found}}
    lines = optimization.check_targets(record).splitlines()[2:]
    verdicts = [line.split(" | ")[-1].strip(" |") for line in lines]
    # 112.5 and 3 times as fast, 1.1 times a bare loop, first in transfer twice
    assert verdicts == ["met", "**missed**", "met", "met", "met", "open"]
    assert "peer: +100.0 (+100.0 to +100.0)" in lines[-2]
    record["quality"]["plain"]["peer"] = found[optimization.OURS]
    assert optimization.check_targets(record).count("**missed**") == 3


def test_time_to_fit_is_that_of_the_shortest_run_that_got_there():
    budgets = [[250, 1.0, 9.0], [100, 0.97, 4.0], [50, 0.2, 2.0]]
    assert optimization.time_to_fit({"budgets": budgets}) == "4.0 (100 steps)"
    assert optimization.time_to_fit({"budgets": budgets[2:]}) == "not reached"


# --------------------------------------------------------------------------- growth


def test_growth_runs_on_tiny_settings(
    homework, small_mnist, small_network, folder, monkeypatch
):
    monkeypatch.setattr(growth, "weigh_apart", lambda images, steps: images * steps)
    text = "--images 1 2 3 --many-steps 2 3 --widths 1 2 --steps 2"
    arguments = shlex.split(f"{text} --training-steps 1 --repetitions 2")
    growth.run(homework, growth.parse(["--folder", str(folder), *arguments]))
    record = json.loads((folder / "results" / "growth.json").read_text())
    assert np.shape(record["images"]["values"]) == (3, 2)
    assert record["memory of images"]["values"] == [[2], [6]]
    assert any("| 1.00 |" in line for line in tables_of(folder, "growth"))
    assert (folder / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_memory_of_a_call_is_weighed(homework, small_mnist):
    assert 0 <= growth.weigh(homework, 2, 2) < 10_000


def test_a_wider_network_has_more_channels_and_the_same_classes(homework):
    shapes = [x.shape for x in growth.widen(homework, 2).weights]
    once = [x.shape for x in homework.build_network(homework.DROPOUT, 0).weights]
    assert shapes[2] == (3, 3, 2 * once[2][2], 2 * once[2][3])
    assert shapes[-1] == once[-1] == (10,)


# ------------------------------------------------------------------------- training


def test_peers_are_built_as_published(homework):
    simple, deotte = training.build_simple(homework), training.build_deotte(homework)
    assert simple.count_params() == 34_826  # what keras.io's page prints
    kinds = [type(layer).__name__ for layer in deotte.layers]
    assert (kinds.count("Conv2D"), kinds.count("BatchNormalization")) == (7, 7)
    assert deotte.layers[-4].output.shape == (None, 1, 1, 128)


def test_deottes_batches_are_augmented_digits(homework):
    images = np.zeros((200, 28, 28, 1), np.float32)
    images[:, 10:18, 10:18] = 1
    labels = np.arange(200) % 10
    shown, answers = next(iter(training.feed_deotte(homework, images, labels)))
    assert shown.shape == (64, 28, 28, 1)
    assert len(set(answers.numpy())) == 10
    assert 30 < np.median(shown.numpy().sum(axis=(1, 2, 3))) < 100
    assert np.abs(shown.numpy() - images[:64]).max() > 0.5


def test_training_runs_on_tiny_settings(
    homework, small_mnist, small_network, yardsticks, folder, monkeypatch
):
    text = "--images 256 --budget 0 --steps 1 --size 64 --repetitions 2 --seeds 1"
    text += " --ingredient-images 128 --ingredient-epochs 1"
    arguments = shlex.split(f"{text} --ingredients everything 'without averaging'")
    monkeypatch.setattr(homework, "OPTIMIZATION_STEPS", 2)
    monkeypatch.setattr(optimization, "make_yardsticks", lambda *_: yardsticks)
    monkeypatch.setattr(training, "build_deotte", training.build_simple)
    training.run(homework, training.parse(["--folder", str(folder), *arguments]))
    record = json.loads((folder / "results" / "training.json").read_text())
    names = {training.OURS, training.SIMPLE, training.DEOTTE}
    assert set(record["curves"]) == names
    for name in names:
        seconds, accuracy = record["curves"][name]["curve"][0]
        assert seconds > 0 and 0 <= accuracy <= 1
        assert len(record["rate"][name]["share"]) == 2
    assert set(record["ingredients"]) == {"everything", "without averaging"}
    assert len(tables_of(folder, "training")) > 12
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")


def test_ingredients_are_left_out_and_put_back(homework):
    images, targets = np.ones((2, 28, 28, 1), np.float32), homework.one_hot([1, 2])
    optimizers = homework.keras.optimizers
    before = homework.distort, homework.attack, homework.mix_with_noise
    with training.leave_out(homework, "without distortion"):
        assert homework.distort(images, 1.0, (0, 1)) is images
    with training.leave_out(homework, "without attack"):
        assert homework.attack(None, images, targets, 2.0) is images
    with training.leave_out(homework, "without noise mixing"):
        assert homework.mix_with_noise(images, targets, (0, 1)) == (images, targets)
    with training.leave_out(homework, "without averaging"):
        optimizer = optimizers.AdamW(1e-3, use_ema=True, ema_momentum=0.998)
        assert optimizer.ema_momentum == 0
    with training.leave_out(homework, "constant rate"):
        decay = optimizers.schedules.CosineDecay
        assert decay(1e-5, decay_steps=9, warmup_target=2e-3, warmup_steps=1) == 1e-3
    assert (homework.distort, homework.attack, homework.mix_with_noise) == before
    assert optimizers.AdamW(1e-3, use_ema=True, ema_momentum=0.9).ema_momentum == 0.9
    with (
        pytest.raises(ValueError, match="expected one of everything"),
        training.leave_out(homework, "attack"),
    ):
        pass


def test_training_targets_say_what_was_not_reached():
    fast, slow = [(10, 0.99), (20, 0.996)], [(15, 0.991), (45, 0.993), (70, 0.994)]
    found = {training.OURS: {"curve": fast}, training.DEOTTE: {"curve": slow}}
    lines = training.check_targets(found).splitlines()[2:]
    assert [line.split(" | ")[-1].strip(" |") for line in lines] == ["met"] * 3
    assert "20 s against not reached" in lines[-1]
    found[training.DEOTTE]["curve"] = [(15, 0.991), (30, 0.993)]
    assert "open: theirs was cut off" in training.check_targets(found)
    found[training.DEOTTE]["curve"] = [(5, 0.995)]
    assert training.check_targets(found).count("**missed**") == 3
