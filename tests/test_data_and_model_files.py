"""The files of the notebook: verified data, saved models, and what harms neither."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

DATA_FILE = ROOT / "data/mnist.npz"
# SHA-256 of the IDX files that LeCun, Cortes and Burges published.
PUBLISHED = {
    "x_train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "y_train": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "x_test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "y_test": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
RETRAIN_REMEDY = r"Run Part 1 with RETRAIN = True"


def fail(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def no_network(homework, monkeypatch):
    """Make every download fail."""
    monkeypatch.setattr(homework.keras.datasets.mnist, "load_data", fail)


@pytest.fixture
def download(homework, monkeypatch):
    """Let a download give chosen arrays."""

    def give(arrays: dict) -> None:
        parts = [tuple(arrays[k] for k in names) for names in (TRAINING, TEST)]
        source = homework.keras.datasets.mnist
        monkeypatch.setattr(source, "load_data", lambda: tuple(parts))

    return give


TRAINING, TEST = ("x_train", "y_train"), ("x_test", "y_test")

# --------------------------------------------------------------------------- data


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_data_file_is_the_published_mnist(homework, mnist, name):
    assert homework.idx_digest(mnist[name]) == PUBLISHED[name]


def test_idx_digest_is_that_of_the_file_byte_for_byte(homework):
    array = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    file = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])
    assert homework.idx_digest(array) == hashlib.sha256(file).hexdigest()
    assert homework.idx_digest(array.T.copy().T) == hashlib.sha256(file).hexdigest()


def test_idx_digest_refuses_other_types_than_bytes(homework):
    with pytest.raises(ValueError, match="expected an array of uint8, got float32"):
        homework.idx_digest(np.zeros(3, np.float32))


@pytest.mark.usefixtures("no_network")
def test_load_mnist_reads_the_file_without_a_network(homework, mnist):
    arrays = homework.load_mnist(DATA_FILE)
    assert [array.shape for array in arrays] == [
        (60000, 28, 28),
        (60000,),
        (10000, 28, 28),
        (10000,),
    ]
    for array, name in zip(arrays, PUBLISHED, strict=True):
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, mnist[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_changed_value_is_refused(homework, mnist, tmp_path, name):
    path = tmp_path / "changed.npz"
    array = mnist[name].copy()
    array.flat[array.size // 2] ^= 1
    np.savez(path, **(mnist | {name: array}))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"{name} in .*changed.npz is not") as caught:
        homework.load_mnist(path)
    assert PUBLISHED[name][:12] in str(caught.value)
    assert homework.idx_digest(array)[:12] in str(caught.value)
    assert "Delete" in str(caught.value)
    assert path.read_bytes() == before


def test_values_of_another_type_are_refused(homework, mnist, tmp_path):
    path = tmp_path / "wide.npz"
    np.savez(path, **(mnist | {"x_test": mnist["x_test"].astype(np.int64)}))
    with pytest.raises(ValueError, match="got int64") as caught:
        homework.load_mnist(path)
    assert str(caught.value).startswith(f"x_test in {path} is not the published MNIST")
    assert "expected uint8" in str(caught.value)
    assert "Delete that file" in str(caught.value)


def without_test_labels(path: Path) -> None:
    with np.load(DATA_FILE) as file:
        np.savez(path, **{name: file[name] for name in file.files if name != "y_test"})


def truncated(path: Path) -> None:
    whole = DATA_FILE.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def with_pickled_objects(path: Path) -> None:
    np.savez(path, **dict.fromkeys(PUBLISHED, np.array([{}, {}], object)))


def with_a_damaged_block(path: Path) -> None:
    whole = bytearray(DATA_FILE.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        without_test_labels,
        with_pickled_objects,
        with_a_damaged_block,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not found"),
        lambda path: path.mkdir(),
    ],
    ids=["truncated", "array missing", "pickled", "damaged", "empty", "text", "folder"],
)
def test_an_unreadable_file_is_refused(homework, tmp_path, damage):
    path = tmp_path / "mnist.npz"
    damage(path)
    message = r"mnist\.npz is not a readable copy of MNIST .*Delete it or restore"
    with pytest.raises(ValueError, match=message):
        homework.load_mnist(path)
    assert path.exists()


PLACES = [0, 1, 3, 30, 300, 0.1, 0.3, 0.5, 0.9, -1]


def cut(path: Path, place: float) -> bytes:
    """Return what a file begins with: some bytes, a share, or all but some bytes."""
    whole = path.read_bytes()
    return whole[: int(place * len(whole)) if 0 < place < 1 else int(place)]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("place", PLACES)
def test_a_data_file_that_ends_too_early_is_refused(homework, tmp_path, place):
    path = tmp_path / "mnist.npz"
    path.write_bytes(cut(DATA_FILE, place))
    before = path.read_bytes()
    message = r"mnist\.npz is not a readable copy of MNIST .*Delete it or restore"
    with pytest.raises(ValueError, match=message):
        homework.load_mnist(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("one", "other"), [("x_train", "x_test"), ("y_train", "y_test"), TRAINING, TEST]
)
def test_swapped_arrays_are_refused(homework, mnist, tmp_path, one, other):
    path = tmp_path / "swapped.npz"
    np.savez(path, **(mnist | {one: mnist[other], other: mnist[one]}))
    message = "is not the published MNIST: .*Delete that file"
    with pytest.raises(ValueError, match=message) as caught:
        homework.load_mnist(path)
    assert str(caught.value).startswith((one, other))


def test_the_model_in_the_place_of_the_data_is_refused(homework, tmp_path):
    path = tmp_path / "mnist.npz"
    path.write_bytes((ROOT / homework.MODEL_FILE).read_bytes())
    with pytest.raises(ValueError, match="not a readable copy of MNIST"):
        homework.load_mnist(path)


@pytest.mark.usefixtures("no_network")
def test_without_file_and_network_the_remedy_is_said(homework, tmp_path):
    with pytest.raises(RuntimeError, match="No space left") as caught:
        homework.load_mnist(tmp_path / "missing.npz")
    assert f"there is no file {homework.DATA_FILE}" in str(caught.value)
    assert "Connect to the network, or put that file beside" in str(caught.value)


def test_without_a_file_mnist_is_downloaded(homework, mnist, tmp_path, download):
    download(mnist)
    arrays = homework.load_mnist(tmp_path / "missing.npz")
    for array, name in zip(arrays, PUBLISHED, strict=True):
        np.testing.assert_array_equal(array, mnist[name])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x_train", lambda array: array[:100]),
        ("y_train", lambda array: array[::-1]),
        ("x_test", lambda array: 255 - array),
        ("y_test", lambda array: np.zeros_like(array)),
    ],
)
def test_a_foreign_download_is_refused(
    homework, mnist, tmp_path, download, name, change
):
    download(mnist | {name: change(mnist[name])})
    with pytest.raises(ValueError, match=f"{name} in Keras's copy") as caught:
        homework.load_mnist(tmp_path / "missing.npz")
    assert ".keras/datasets" in str(caught.value)
    assert "Delete that file" in str(caught.value)


# ------------------------------------------------------------------ saved models


@pytest.fixture
def record():
    """A record as training leaves it."""
    return {"history": {"loss": [0.25, 0.125]}, "seconds": 1.5, "check_logits": [[1.0]]}


@pytest.fixture
def saved(homework, linear_model, record, tmp_path) -> Path:
    """A model that was saved as it should be."""
    path = tmp_path / "models" / "mnist_cnn.keras"
    homework.save_model(linear_model, record, path)
    return path


@pytest.fixture
def images() -> np.ndarray:
    """A few images of noise."""
    return np.random.default_rng(0).random((3, 28, 28, 1), np.float32)


def test_a_saved_model_comes_back_with_its_record(
    homework, linear_model, record, saved, images
):
    network, read = homework.load_model(saved)
    assert read == record
    np.testing.assert_array_equal(
        network.predict(images, verbose=0), linear_model.predict(images, verbose=0)
    )
    assert list(saved.parent.iterdir()) == [saved]


def test_the_trained_network_comes_back(homework, tmp_path, images):
    path = tmp_path / "network.keras"
    network = homework.build_network(dropout=0.3, seed=1)
    homework.save_model(network, {}, path)
    loaded, _ = homework.load_model(path)
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), network.predict(images, verbose=0)
    )


def test_plain_keras_reads_a_saved_model(homework, linear_model, saved, images):
    network = homework.keras.saving.load_model(saved)
    np.testing.assert_array_equal(
        network.predict(images, verbose=0), linear_model.predict(images, verbose=0)
    )


def test_saving_replaces_the_old_model(homework, linear_model, saved):
    homework.save_model(linear_model, {"seconds": 2}, saved)
    assert homework.load_model(saved)[1] == {"seconds": 2}
    assert list(saved.parent.iterdir()) == [saved]


def save_half(model, path, *arguments, **options):
    Path(path).write_bytes(b"half")
    fail()


@pytest.mark.parametrize("part", ["network", "record", "rename"])
def test_a_save_that_fails_leaves_the_old_model(
    homework, linear_model, saved, monkeypatch, part
):
    before = saved.read_bytes()
    new = {"seconds": {1, 2}} if part == "record" else {"seconds": 2}
    if part == "network":
        monkeypatch.setattr(homework.keras.Model, "save", save_half)
    elif part == "rename":
        monkeypatch.setattr(homework.os, "replace", fail)
    with pytest.raises(ValueError if part == "record" else OSError):
        homework.save_model(linear_model, new, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_until_the_rename_the_old_model_stays(
    homework, linear_model, saved, monkeypatch
):
    before, rename = saved.read_bytes(), os.replace
    at_rename = {}

    def watch(source, target):
        at_rename["old"] = Path(target).read_bytes()
        at_rename["new"] = homework.load_model(Path(source))[1]
        rename(source, target)

    monkeypatch.setattr(homework.os, "replace", watch)
    homework.save_model(linear_model, {"seconds": 2}, saved)
    assert at_rename == {"old": before, "new": {"seconds": 2}}


def test_what_a_killed_save_left_behind_does_no_harm(
    homework, linear_model, record, saved
):
    left = saved.with_name("mnist_cnn.partial.keras")
    left.write_bytes(b"half a model")
    assert homework.load_model(saved)[1] == record
    homework.save_model(linear_model, {"seconds": 2}, saved)
    assert homework.load_model(saved)[1] == {"seconds": 2}
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_model_is_named_with_the_remedy(homework, tmp_path):
    path = tmp_path / "mnist_cnn.keras"
    with pytest.raises(FileNotFoundError, match=RETRAIN_REMEDY) as caught:
        homework.load_model(path)
    assert f"there is no model {path}" in str(caught.value)


def truncate(homework, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_weights(homework, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("model.weights.h5")
    whole = bytearray(path.read_bytes())
    # the weights themselves stand at the end of the entry
    whole[place.header_offset + place.file_size - 2000] ^= 255
    path.write_bytes(whole)


def replace_by_text(homework, path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1")


def drop_record(homework, path: Path) -> None:
    homework.keras.saving.load_model(path).save(path)


def damage_record(homework, path: Path) -> None:
    drop_record(homework, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(homework.RECORD_NAME, '{"seconds": ')


def keep_only_the_record(homework, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(homework.RECORD_NAME, json.dumps({}))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        damage_weights,
        replace_by_text,
        drop_record,
        damage_record,
        keep_only_the_record,
        lambda homework, path: path.write_bytes(b""),
    ],
    ids=[
        "truncated",
        "damaged weights",
        "text",
        "no record",
        "damaged record",
        "no network",
        "empty",
    ],
)
def test_an_incomplete_model_is_refused(homework, saved, damage):
    damage(homework, saved)
    before = saved.read_bytes()
    message = r"mnist_cnn\.keras is not a complete model .*" + RETRAIN_REMEDY
    with pytest.raises(ValueError, match=message):
        homework.load_model(saved)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("place", PLACES)
def test_a_model_that_ends_too_early_is_refused(homework, saved, place):
    saved.write_bytes(cut(saved, place))
    before = saved.read_bytes()
    message = r"mnist_cnn\.keras is not a complete model .*" + RETRAIN_REMEDY
    with pytest.raises(ValueError, match=message):
        homework.load_model(saved)
    assert saved.read_bytes() == before


def test_the_data_in_the_place_of_the_model_is_refused(homework, saved):
    saved.write_bytes(DATA_FILE.read_bytes())
    with pytest.raises(
        ValueError, match="(?s)not a complete model .*" + RETRAIN_REMEDY
    ):
        homework.load_model(saved)


def rewrite_entry(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Replace one entry of an archive."""
    with zipfile.ZipFile(path) as archive:
        entries = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in entries.items():
            archive.writestr(each, change(content) if each == name else content)


def with_a_lambda_layer(homework, path: Path, victim: Path) -> None:
    """Save a model whose layer writes a file when it is called."""
    keras = homework.keras
    inputs = keras.Input(homework.IMAGE_SHAPE)
    code = f"lambda x: (open({str(victim)!r}, 'w').close(), x)[1]"
    harmless = keras.layers.Lambda(eval(code))
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(harmless(inputs)))
    homework.save_model(keras.Model(inputs, outputs), {"seconds": 1}, path)
    victim.unlink()  # written when the model was made


def test_a_lambda_layer_is_refused_and_its_code_does_not_run(homework, tmp_path):
    path, victim = tmp_path / "malicious.keras", tmp_path / "victim"
    with_a_lambda_layer(homework, path, victim)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match="(?s)not a complete model .*" + RETRAIN_REMEDY
    ):
        homework.load_model(path)
    assert not victim.exists()
    assert path.read_bytes() == before
    # it is malicious: where nobody takes care, its code runs
    homework.keras.saving.load_model(path, compile=False, safe_mode=False)
    assert victim.exists()


@pytest.mark.parametrize("module", ["os", "subprocess", "builtins"])
def test_a_layer_of_a_foreign_module_is_refused(homework, saved, tmp_path, module):
    """A configuration names the classes to make; here one that runs a command."""
    victim = tmp_path / "victim"
    name, config = {
        "os": ("system", {"command": f"touch {victim}"}),
        "subprocess": ("Popen", {"args": ["touch", str(victim)]}),
        "builtins": ("exec", {"source": f"open({str(victim)!r}, 'w')"}),
    }[module]

    def change(content: bytes) -> bytes:
        settings = json.loads(content)
        layer = settings["config"]["layers"][-1]
        layer |= dict(module=module, class_name=name, config=config)
        layer["registered_name"] = name
        return json.dumps(settings).encode()

    rewrite_entry(saved, "config.json", change)
    with pytest.raises(
        ValueError, match="(?s)not a complete model .*" + RETRAIN_REMEDY
    ):
        homework.load_model(saved)
    assert not victim.exists()


def test_another_architecture_is_refused_by_its_answers(
    homework, notebook, linear_model, tmp_path, monkeypatch
):
    """Under the record of the trained network, and with the same shapes."""
    (cell,) = (c for c in notebook.cells if "The verified data, and" in c.source)
    _, record = homework.load_model(ROOT / homework.MODEL_FILE)
    path = tmp_path / homework.MODEL_FILE
    homework.save_model(linear_model, record, path)
    before = path.read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / homework.DATA_FILE).symlink_to(DATA_FILE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="answers otherwise .*" + RETRAIN_REMEDY):
        exec(cell.source, dict(vars(homework)))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("shape", "classes"), [((32, 32, 3), 10), ((28, 28, 1), 2), ((784,), 10)]
)
def test_a_model_of_other_shapes_is_refused(homework, tmp_path, shape, classes):
    keras, path = homework.keras, tmp_path / "other.keras"
    inputs = keras.Input(shape)
    outputs = keras.layers.Dense(classes)(keras.layers.Flatten()(inputs))
    homework.save_model(keras.Model(inputs, outputs), {}, path)
    with pytest.raises(ValueError, match=RETRAIN_REMEDY) as caught:
        homework.load_model(path)
    assert f"{path} maps {shape} to {(classes,)}" in str(caught.value)


def test_check_writable_makes_the_folder_and_leaves_nothing(homework, tmp_path):
    folder = tmp_path / "a" / "b"
    homework.check_writable(folder)
    homework.check_writable(folder)
    assert list(folder.iterdir()) == []


def test_check_writable_says_what_to_do(homework, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "models"
    with pytest.raises(OSError, match="cannot write into the folder") as caught:
        homework.check_writable(folder)
    assert str(folder) in str(caught.value)
    assert "Move the notebook to a folder of your own" in str(caught.value)


def test_check_writable_notices_a_full_disk(homework, tmp_path, monkeypatch):
    monkeypatch.setattr(homework.tempfile, "TemporaryFile", fail)
    with pytest.raises(OSError, match=r"No space left.*make room on the disk"):
        homework.check_writable(tmp_path)
