"""Datasets: the bundled MNIST, directories of IDX files, datasets of TFDS, and their errors."""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from experiments.common import data, tfds_data

_ROOT = pathlib.Path(__file__).parents[2]
_IDX_FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


@pytest.fixture(scope="module")
def mnist():
    return data.load()


@pytest.fixture(scope="module")
def small(mnist):
    """The first examples of MNIST, by array: 200 for training, 100 for testing."""
    sizes = {"train": 200, "test": 100}
    return {array: getattr(mnist, array)[: sizes[array.split("_")[0]]] for array in _IDX_FILES}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A separate cache directory for each test."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory / "initjax" / "datasets"


def _idx_bytes(array):
    """An IDX file; images lose their single channel."""
    array = (array[..., 0] if array.ndim == 4 else array).astype(np.uint8)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def _write_idx(folder, arrays, names=_IDX_FILES):
    folder.mkdir(parents=True, exist_ok=True)
    for array, name in names.items():
        content = _idx_bytes(arrays[array])
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def _same_arrays(dataset, arrays):
    return all(np.array_equal(getattr(dataset, array), arrays[array]) for array in _IDX_FILES)


# The bundled MNIST.


def test_the_bundled_mnist_is_the_canonical_one(mnist):
    assert (mnist.name, mnist.source, mnist.num_classes) == ("mnist", "bundled", 10)
    assert mnist.digest == "59197862090dc9aae334e03c60b737493dbc7f484629a95fd9ddd02eeb635aaa"
    assert mnist.train_images.shape == (60000, 28, 28, 1)
    assert mnist.test_images.shape == (10000, 28, 28, 1)
    assert mnist.train_images.dtype == mnist.test_images.dtype == np.uint8
    assert mnist.train_labels.dtype == mnist.test_labels.dtype == np.int32
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(mnist.test_labels)[1] == 1135
    pixels = mnist.train_images.astype(np.uint16)
    assert pixels.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert (pixels * pixels).mean() / 255**2 == pytest.approx(0.1120, abs=5e-5)


def test_arrays_are_read_only_and_the_repr_is_short(mnist):
    with pytest.raises(ValueError, match="read-only"):
        mnist.train_labels[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        mnist.name = "other"
    assert len(repr(mnist)) < 200


def test_the_digest_depends_only_on_content_order_and_number_of_classes(small, tmp_path):
    def digest(arrays, folder):
        return data.load("any", str(_write_idx(tmp_path / folder, arrays))).digest

    original = digest(small, "original")
    assert digest(small, "copy") == original
    swapped = {array: values[::-1] for array, values in small.items()}
    assert digest(swapped, "swapped") != original
    more = small | {"test_labels": np.where(small["test_labels"] == 9, 10, small["test_labels"])}
    assert digest(more, "more") != original


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("train-images-idx3-ubyte.gz", "flipped"),
        ("train-labels-idx1-ubyte.gz", "missing"),
        ("t10k-images-idx3-ubyte.gz", "truncated"),
        ("t10k-labels-idx1-ubyte.gz", "empty"),
    ],
)
def test_the_error_for_a_damaged_bundled_file_names_it_and_the_expected_digest(
    file, damage, tmp_path, monkeypatch
):
    for name in _IDX_FILES.values():
        (tmp_path / name).symlink_to(data._BUNDLED / name)
    content = bytearray((tmp_path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / file).unlink()
    if damage != "missing":
        size = {"flipped": None, "truncated": -10, "empty": 0}[damage]
        (tmp_path / file).write_bytes(content[:size])
    monkeypatch.setattr(data, "_BUNDLED", tmp_path)
    with pytest.raises(ValueError, match="restore it from the repository") as error:
        data.load()
    expected = "No such file" if damage == "missing" else data._BUNDLED_SHA256[file[:-3]]
    assert file in str(error.value) and expected in str(error.value)


# Folders of IDX files.


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        (".gz", ""),
        ("-idx3-ubyte.gz", ".idx3-ubyte"),
        ("t10k", "test"),
        ("train-", "emnist-letters-train-"),
    ],
)
def test_idx_files_are_found_under_all_their_usual_names(old, new, small, tmp_path):
    names = {array: name.replace(old, new) for array, name in _IDX_FILES.items()}
    if new.startswith("emnist"):
        names = {
            array: name.replace("t10k", "emnist-letters-test") for array, name in names.items()
        }
    folder = _write_idx(tmp_path / "Digits", small, names)
    dataset = data.load(data_dir=str(folder))
    assert _same_arrays(dataset, small)
    assert dataset.name == ("emnist-letters" if new.startswith("emnist") else "Digits")
    assert dataset.source == str(folder)
    assert dataset.num_classes == 10


def test_files_without_a_prefix_match_any_name(small, tmp_path):
    assert data.load("kmnist", str(_write_idx(tmp_path, small))).name == "kmnist"


def test_links_to_files_are_followed_but_the_source_is_the_folder(small, tmp_path):
    _write_idx(tmp_path / "store", small)
    (tmp_path / "links").mkdir()
    for name in _IDX_FILES.values():
        (tmp_path / "links" / name).symlink_to(tmp_path / "store" / name)
    dataset = data.load(data_dir=str(tmp_path / "links"))
    assert (dataset.name, dataset.source) == ("links", str(tmp_path / "links"))


def test_an_uncompressed_file_is_preferred_to_its_archive(small, tmp_path):
    _write_idx(tmp_path, small, {array: name[:-3] for array, name in _IDX_FILES.items()})
    for name in _IDX_FILES.values():
        (tmp_path / name).write_bytes(b"")
    assert _same_arrays(data.load(data_dir=str(tmp_path)), small)


@pytest.mark.parametrize("beside", [True, False])
def test_files_in_directories_of_their_own_names_are_found(beside, small, tmp_path):
    """As Kaggle ships MNIST: train-images-idx3-ubyte/train-images-idx3-ubyte."""
    for array, name in _IDX_FILES.items():
        _write_idx(
            tmp_path / name[:-3],
            small if not beside else {array: small[array][:1]},
            {array: name[:-3]},
        )
    if beside:
        names = {k: v[:-3].replace("-idx", ".idx") for k, v in _IDX_FILES.items()}
        _write_idx(tmp_path, small, names)
    dataset = data.load(data_dir=str(tmp_path))
    assert _same_arrays(dataset, small) and dataset.source == str(tmp_path)


def test_a_directory_of_the_name_of_a_file_holds_no_data(small, tmp_path):
    _write_idx(tmp_path, small)
    (tmp_path / _IDX_FILES["train_images"]).unlink()
    (tmp_path / _IDX_FILES["train_images"]).mkdir()
    with pytest.raises(ValueError, match="lack the train images"):
        data.check(data_dir=str(tmp_path))


def test_a_file_named_gz_that_is_not_compressed_is_read_as_it_is(small, tmp_path):
    _write_idx(tmp_path, small)
    (tmp_path / _IDX_FILES["train_images"]).write_bytes(_idx_bytes(small["train_images"]))
    assert _same_arrays(data.load(data_dir=str(tmp_path)), small)


@pytest.fixture
def emnist(small, tmp_path):
    """Two datasets in one directory, as in EMNIST's archive; letters are digits plus one."""
    for prefix, shift in (("emnist-digits-", 0), ("emnist-letters-", 1)):
        arrays = {k: v + shift if k.endswith("labels") else v for k, v in small.items()}
        names = {k: prefix + v.replace("t10k", "test") for k, v in _IDX_FILES.items()}
        _write_idx(tmp_path, arrays, names)
    return str(tmp_path)


@pytest.mark.parametrize("name", ["emnist/letters", "emnist-letters", "EMNIST/Letters"])
def test_the_name_selects_one_of_several_datasets(name, emnist, small):
    dataset = data.load(name, emnist)
    assert dataset.name == name
    assert np.array_equal(dataset.test_labels, small["test_labels"] + 1)
    assert dataset.num_classes == 11


@pytest.mark.parametrize("name", [None, "mnist", "emnist/balanced"])
def test_all_datasets_are_listed_if_the_name_selects_none(name, emnist):
    for function in (data.load, data.check):
        with pytest.raises(ValueError, match=r"emnist-digits, emnist-letters.*--dataset=NAME"):
            function(name, emnist)


def test_a_dataset_with_a_prefix_does_not_match_another_name(small, tmp_path):
    names = {array: f"emnist-letters-{name}" for array, name in _IDX_FILES.items()}
    _write_idx(tmp_path, small, names)
    with pytest.raises(ValueError, match=r"holds the IDX files of emnist-letters.*emnist/digits"):
        data.load("emnist/digits", str(tmp_path))


@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        ("train_images", lambda b: gzip.compress(b)[:-20], "end-of-stream"),
        ("train_images", lambda b: gzip.compress(b)[:5], "cannot be read"),
        ("test_images", lambda b: b"\0\0\x08\x01" + b[4:], "0x00000801, expected 0x00000803"),
        ("test_images", lambda b: b"\0\0\x0d\x03" + b[4:], "0x00000d03, expected 0x00000803"),
        ("test_labels", lambda b: b"<html>not found</html>", "0x3c68746d, expected 0x00000801"),
        ("test_labels", lambda b: b"", "its 0 bytes begin with"),
        ("train_labels", lambda b: b[:-1], "207 bytes uncompressed, expected 208"),
        ("train_labels", lambda b: b + b"\0", "209 bytes uncompressed, expected 208"),
        ("train_images", lambda b: b[:4] + b"\xff" * 12 + b[16:], "expected 79,228"),
    ],
)
def test_the_error_for_a_broken_idx_file_names_it_and_its_content(
    array, change, message, small, tmp_path
):
    file = _write_idx(tmp_path, small) / _IDX_FILES[array]
    file.write_bytes(change(_idx_bytes(small[array])))
    with pytest.raises(ValueError, match=message) as error:
        data.load(data_dir=str(tmp_path))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        ("train_labels", lambda x: x[:-1], "holds 200 images but train-labels.* 199 labels"),
        ("test_images", lambda x: x[:, :14], r"\(28, 28, 1\) but test images \(14, 28, 1\)"),
        ("test_images", lambda x: x[:, :, :0], "expected at least one example"),
    ],
)
def test_inconsistent_arrays_are_rejected(array, change, message, small, tmp_path):
    _write_idx(tmp_path, small | {array: change(small[array])})
    with pytest.raises(ValueError, match=message):
        data.load(data_dir=str(tmp_path))


def test_the_error_for_an_incomplete_dataset_names_the_missing_files(small, tmp_path):
    _write_idx(tmp_path, small)
    (tmp_path / _IDX_FILES["test_labels"]).unlink()
    for function in (data.load, data.check):
        with pytest.raises(ValueError, match=r"lack the test labels; found t10k-images.*, train-"):
            function("mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "data_dir", "message"),
    [
        (None, "/no/such/folder", "--data_dir=/no/such/folder cannot be read: No such file"),
        ("mnist", "", "--data_dir= cannot be read"),
        (None, ".", r"holds no IDX files.*--dataset=NAME"),
        ("huggingface:mnist", None, "--dataset=huggingface:mnist is not a valid name"),
        ("mnist/a=b", None, "expected NAME, NAME/CONFIG or NAME:VERSION"),
        ("", None, "--dataset= is not a valid name"),
    ],
)
def test_check_finds_errors_without_reading_data(name, data_dir, message):
    for function in (data.check, data.load):
        with pytest.raises(ValueError, match=message):
            function(name, data_dir)


def test_check_accepts_what_load_accepts(small, tmp_path):
    data.check()
    data.check("mnist")
    data.check("emnist/letters:3.1.0")
    data.check(None, str(_write_idx(tmp_path, small)))


# Sets of TFDS, prepared here without TensorFlow.


def _png(image):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image[..., 0]).save(buffer, "png")
    return buffer.getvalue()


def _prepare(
    data_dir,
    arrays,
    feature=None,
    encode=_png,
    splits=("train", "test"),
    supervised_keys=("image", "label"),
):
    """Prepares a real TFDS dataset, called digits, as array_record files."""
    features = tfds.features.FeaturesDict(
        {
            "image": feature or tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    with registered.skip_registration():

        class Digits(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            code_path = None  # to look for it, TFDS would need importlib_resources

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=features, supervised_keys=supervised_keys
                )

            def _split_generators(self, dl_manager):
                sources = zip(splits, ("train", "test"), strict=False)
                return {split: self._generate_examples(source) for split, source in sources}

            def _generate_examples(self, source):
                pairs = zip(arrays[f"{source}_images"], arrays[f"{source}_labels"], strict=True)
                for i, (image, label) in enumerate(pairs):
                    yield i, {"image": encode(image), "label": int(label)}

    with contextlib.redirect_stderr(io.StringIO()):  # TFDS's progress bars
        Digits(data_dir=str(data_dir), file_format="array_record").download_and_prepare()
    return str(data_dir)


@pytest.fixture(scope="module")
def digits(small, tmp_path_factory):
    return _prepare(tmp_path_factory.mktemp("tfds"), small)


def _examples(images, labels):
    return sorted(
        (int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)
    )


def _same_examples(dataset, arrays):
    """Whether the examples are the same in any order, since TFDS shuffles them."""
    return all(
        _examples(getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels"))
        == _examples(arrays[f"{split}_images"], arrays[f"{split}_labels"])
        for split in ("train", "test")
    )


def _as_tfrecord(digits, data_dir):
    """Rewrites the dataset in TFDS' default format as TensorFlow would, except for checksums."""
    shutil.copytree(digits, data_dir, dirs_exist_ok=True)
    folder = pathlib.Path(data_dir, "digits", "1.0.0")
    builder = tfds.builder("digits", data_dir=digits)
    for split in ("train", "test"):
        name = f"digits-{split}.{{}}-00000-of-00001"
        frames = [
            len(record).to_bytes(8, "little") + bytes(4) + record + bytes(4)
            for record in tfds_data._records(builder, split)
        ]
        (folder / name.format("tfrecord")).write_bytes(b"".join(frames))
        (folder / name.format("array_record")).unlink()
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text())
    content["fileFormat"] = "tfrecord"
    for split in content["splits"]:
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info.write_text(json.dumps(content))
    return folder


def test_a_tfds_dataset_has_the_examples_it_was_made_from(digits, small):
    dataset = data.load("digits", digits)
    assert _same_examples(dataset, small)
    assert (dataset.name, dataset.num_classes) == ("digits", 10)
    assert dataset.source == os.path.join(digits, "digits", "1.0.0")
    assert data.load("digits:1.0.0", digits).digest == dataset.digest


def test_tfrecord_files_give_the_same_arrays_as_array_record_files(digits, tmp_path):
    folder = _as_tfrecord(digits, tmp_path)
    assert not list(folder.glob("*array_record*"))
    assert data.load("digits", str(tmp_path)).digest == data.load("digits", digits).digest


@pytest.mark.parametrize("cut", [1, 7, 30, None])
def test_a_truncated_tfrecord_file_is_rejected(cut, digits, tmp_path):
    file = _as_tfrecord(digits, tmp_path) / "digits-test.tfrecord-00000-of-00001"
    content = file.read_bytes()
    first = 16 + int.from_bytes(content[:8], "little")
    file.write_bytes(content[first:] if cut is None else content[:-cut])
    with pytest.raises(ValueError, match=r"split test: .*expected"):
        data.load("digits", str(tmp_path))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_array_record_file_is_named(damage, digits, tmp_path):
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "digits" / "1.0.0" / "digits-train.array_record-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[20000:20100] = bytes(100)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[: 30000 if damage == "truncated" else None])
    with pytest.raises(ValueError, match=r"digits/1\.0\.0, split train"):
        data.load("digits", str(tmp_path))


@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1)])
def test_images_stored_as_tensors_are_read(encoding, shape, small, tmp_path):
    feature = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=encoding)
    _prepare(tmp_path, small, feature, lambda image: image.reshape(shape))
    assert _same_examples(data.load("digits", str(tmp_path)), small)


def test_images_have_the_number_of_channels_in_the_metadata(small, tmp_path):
    _prepare(tmp_path, small, tfds.features.Image(shape=(None, None, 3)))  # of gray PNG files
    gray = {k: v.repeat(3, axis=-1) if k.endswith("images") else v for k, v in small.items()}
    assert _same_examples(data.load("digits", str(tmp_path)), gray)


def test_images_of_several_shapes_are_rejected(small, tmp_path):
    def encode(image):
        return _png(image[: 28 if image[14, 14] else 20])

    _prepare(tmp_path, small, tfds.features.Image(shape=(None, None, 1)), encode)
    with pytest.raises(ValueError, match=r"one shape, found \(20, 28, 1\), \(28, 28, 1\)"):
        data.load("digits", str(tmp_path))


def test_the_validation_split_is_used_if_there_is_no_test_split(small, tmp_path):
    _prepare(tmp_path, small, splits=("train", "validation"))
    assert _same_examples(data.load("digits", str(tmp_path)), small)


def test_the_error_for_missing_splits_lists_the_existing_ones(small, tmp_path):
    _prepare(tmp_path, small, splits=("train",))
    with pytest.raises(ValueError, match="has the splits train, expected train, and test or val"):
        data.load("digits", str(tmp_path))


@pytest.mark.parametrize("keys", [None, ("label", "image"), ("image", "image")])
def test_datasets_without_images_and_classes_are_rejected(keys, small, tmp_path):
    _prepare(tmp_path, small, supervised_keys=keys)
    with pytest.raises(
        ValueError, match=r"expected supervised_keys .* found .*'label': ClassLabel"
    ):
        data.load("digits", str(tmp_path))


def test_images_that_are_not_bytes_are_rejected(small, tmp_path):
    feature = tfds.features.Tensor(shape=(28, 28, 1), dtype=np.float32)
    _prepare(tmp_path, small, feature, np.float32)
    with pytest.raises(ValueError, match="expected supervised_keys that name a uint8 image"):
        data.load("digits", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", r"--dataset=mnits cannot be opened: .*catalog/overview; did you mean mnist or "),
        ("emnist/lettrs", r"; did you mean emnist/letters or "),
        (
            "mnist:9.9.9",
            r"opened: Dataset mnist cannot be loaded at version 9\.9\.9, only: 3\.\d\.\d\.$",
        ),
    ],
)
def test_the_error_for_an_unknown_name_suggests_similar_ones(name, message):
    with pytest.raises(ValueError, match=message) as error:
        data.load(name)
    assert "\n" not in str(error.value)


def test_the_error_for_an_unprepared_dataset_has_the_command_that_prepares_it(
    tmp_path, monkeypatch
):
    directory = tmp_path / "it's $HOME"
    directory.mkdir()
    with pytest.raises(
        ValueError, match="holds no IDX files; as a data directory of TFDS"
    ) as error:
        data.load("kmnist", str(directory))
    assert f"not prepared in {directory}/kmnist" in str(error.value)
    assert "\n" not in str(error.value)
    # The command survives the shell: an interpreter gets it as one argument that is Python.
    command = str(error.value).split("&& ")[1].split("    ")[0]
    shown = f'python() {{ printf %s "$2"; }}; {command}'
    code = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout
    compile(code, "command", "exec")
    assert json.dumps(str(directory)) in code and 'tfds.builder("kmnist"' in code


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_metadata_is_a_value_error(file, digits, tmp_path):
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    (tmp_path / "digits" / "1.0.0" / file).write_text("{")
    with pytest.raises(ValueError, match=r"--dataset=digits cannot be opened: .* line \d"):
        data.load("digits", str(tmp_path))


# The cache.


def _forbid_decoding(monkeypatch):
    monkeypatch.setattr(tfds_data, "_decode", lambda *_: pytest.fail("decoded again"))


def test_who_watches_is_told_how_many_images_are_decoded(digits, monkeypatch):
    told = []
    data.load("digits", digits, watch=lambda done, total: told.append((done, total)))
    assert told == [(100, 300), (200, 300), (300, 300)]


def test_a_dataset_is_decoded_once(digits, cache, monkeypatch):
    first = data.load("digits", digits)
    _forbid_decoding(monkeypatch)
    assert data.load("digits", digits).digest == first.digest
    assert [file.suffix for file in cache.iterdir()] == [".npz"]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "text"])
def test_a_damaged_cache_file_is_replaced(damage, digits, cache, monkeypatch, caplog):
    first = data.load("digits", digits)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(
        {"flipped": content, "truncated": content[:-99], "empty": b"", "text": b"no"}[damage]
    )
    assert data.load("digits", digits).digest == first.digest
    assert "is damaged" in caplog.text and "replaced" in caplog.text
    _forbid_decoding(monkeypatch)
    assert data.load("digits", digits).digest == first.digest


def test_a_dataset_that_was_prepared_again_is_decoded_again(small, tmp_path):
    first = data.load("digits", _prepare(tmp_path, small))
    shutil.rmtree(tmp_path / "digits")
    inverted = {k: 255 - v if k.endswith("images") else v for k, v in small.items()}
    second = data.load("digits", _prepare(tmp_path, inverted))
    assert second.digest != first.digest
    assert _same_examples(second, inverted)


def test_loading_works_without_a_writable_cache(digits, cache, caplog):
    cache.parent.parent.rmdir()
    cache.parent.parent.write_text("a file where the directory should be")
    assert data.load("digits", digits).num_classes == 10
    assert "cannot write" in caplog.text


def test_a_cache_file_is_complete_or_absent(digits, cache, monkeypatch, caplog):
    def disk_is_full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    assert data.load("digits", digits).num_classes == 10
    assert "No space left" in caplog.text
    assert not list(cache.iterdir())


# What is imported.


def test_neither_tensorflow_nor_anything_else_heavy_is_imported(digits):
    program = f"""
import sys
from experiments.common import data, tfds_data
data.check("kmnist")
data.load()
heavy = {{"jax", "tensorflow", "tensorflow_datasets", "PIL", "platformdirs"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
data.load("digits", {digits!r})
assert not {{"jax", "tensorflow"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=_ROOT, check=True)
