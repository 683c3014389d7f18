"""Datasets that TensorFlow Datasets (TFDS) has prepared, read without TensorFlow.

Records are read as raw bytes and decoded here, in a quarter of the time that TFDS takes. The arrays
are cached in the user's cache directory for the next run.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments.common import description, files
from experiments.common.config import UsageError

_log = logging.getLogger(__name__)

_PILLOW_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by number of channels
_WATCH_EVERY = 100  # images, which take some milliseconds
_CACHE_FORMAT = 1  # to be raised when the same records give different arrays


def load(
    name: str, data_dir: str | None, watch: Callable[[int, int], None] | None = None
) -> tuple[str, str, int, list[np.ndarray]]:
    """Loads a prepared dataset, from the cache if it was decoded before.

    Args:
        name: `NAME` or `NAME/CONFIG`, optionally with `:VERSION`.
        data_dir: The data directory of TFDS; None means its default.
        watch: Called with (images decoded so far, all of them) while they are decoded.

    Returns:
        The name without the version, the directory of the dataset, the number of classes, and the
        images and labels of the training and the test set.

    Raises:
        UsageError: If there is no such dataset, it is not prepared, or it is invalid.
    """
    import tensorflow_datasets as tfds

    root = data_dir and os.path.abspath(os.path.expanduser(data_dir))
    asked = f"--dataset={name}"
    if root:
        asked = f"--data_dir={data_dir} holds no IDX files; as a data directory of TFDS: {asked}"
    try:
        builder: Any = tfds.builder(name, data_dir=root)
    except Exception as error:  # unknown name, configuration or version, or damaged metadata
        base, stem = name.partition("/")[0], name.partition(":")[0]
        known = tfds.list_builders(with_community_datasets=False)
        if base in known:
            known += [f"{base}/{config}" for config in tfds.builder_cls(base).builder_configs]
        reason = " ".join(str(error).rpartition('}": ')[2].split())  # without TFDS' prefix
        if isinstance(error, tfds.core.DatasetNotFoundError) or (
            base in known and stem not in known
        ):
            reason = "not among https://www.tensorflow.org/datasets/catalog/overview"
            if close := difflib.get_close_matches(stem, known):
                reason += f"; did you mean {' or '.join(close)}?"
        raise UsageError(f"{asked} cannot be opened: {reason}") from error
    info, source = builder.info, str(builder.data_path)
    # The directory is checked first, since is_prepared() logs a warning if there is none.
    if not os.path.isdir(source) or not builder.is_prepared():
        where = f", data_dir={json.dumps(root, ensure_ascii=False)}" if root else ""
        # `tfds build` would be shorter, but needs Apache Beam as well.
        code = (
            "import tensorflow_datasets as tfds; "
            f'tfds.builder("{name}", file_format="array_record"{where}).download_and_prepare()'
        )
        raise UsageError(
            f"{asked} is not prepared in {source}. To prepare it, once, TFDS needs TensorFlow: "
            f"pip install tensorflow importlib_resources && python -c"
            f" {description.quoted([code])}    "
            "Without TensorFlow: download the IDX files of the dataset and give --data_dir=DIR"
        )
    image, label = _supervised_keys(info, source)
    test = "test" if "test" in info.splits else "validation"
    if "train" not in info.splits or test not in info.splits:
        raise UsageError(
            f"{source} has the splits {', '.join(info.splits)}, "
            "expected train, and test or validation"
        )
    decoded = itertools.count(1)
    total = sum(info.splits[split].num_examples for split in ("train", test))

    def count() -> None:
        done = next(decoded)
        if watch and done % _WATCH_EVERY == 0:
            watch(done, total)

    arrays = _cached(
        _cache_path(info.full_name, source),
        lambda: [
            array
            for split in ("train", test)
            for array in _decode(builder, split, image, label, count)
        ],
    )
    set_name = info.full_name.rpartition("/")[0]  # the version is part of the source
    return set_name, source, info.features[label].num_classes, arrays


def _supervised_keys(info: Any, source: str) -> tuple[str, str]:
    """Returns the names of the features that are the image and its class."""
    from tensorflow_datasets import features as kinds

    keys, features = info.supervised_keys, info.features
    if isinstance(keys, tuple) and len(keys) == 2 and all(key in features for key in keys):
        image, label = (features[key] for key in keys)
        shape = image.shape
        is_image = isinstance(image, kinds.Image) and shape[-1] in _PILLOW_MODES
        is_tensor = isinstance(image, kinds.Tensor) and len(shape) in (2, 3) and None not in shape
        is_class = isinstance(label, kinds.ClassLabel) and label.num_classes
        if is_class and (is_image or is_tensor) and image.np_dtype == np.uint8:
            return keys
    raise UsageError(
        f"{source}: expected supervised_keys that name a uint8 image and a class label, "
        f"found supervised_keys={keys} and {' '.join(repr(features).split())}"
    )


def _decode(
    builder: Any, split: str, image: str, label: str, count: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images, with a channel axis, and the labels of a split; counts the images."""
    import PIL.Image
    from tensorflow_datasets import features as kinds
    from tensorflow_datasets.proto import tf_example_pb2

    feature = builder.info.features[image]
    mode = _PILLOW_MODES.get(feature.shape[-1])
    parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]

    def pixels(value: Any) -> np.ndarray:
        if isinstance(feature, kinds.Image):
            with PIL.Image.open(io.BytesIO(value.bytes_list.value[0])) as picture:
                array = np.asarray(picture.convert(mode))
        else:  # a tensor is stored as bytes, compressed or not, or as a list of integers
            stored = value.bytes_list.value or [np.array(value.int64_list.value, np.uint8)]
            array = feature.decode_example_np(stored[0])
        count()
        return array if array.ndim == 3 else array[..., np.newaxis]

    try:
        # Parsed here, since TFDS takes four times as long.
        examples = [parse(record).features.feature for record in _records(builder, split)]
        images = [pixels(example[image]) for example in examples]
        labels = np.array([example[label].int64_list.value[0] for example in examples], np.int32)
        if len(shapes := {array.shape for array in images}) > 1:
            raise UsageError(f"expected images of one shape, found {str(sorted(shapes)[:3])[1:-1]}")
        return np.stack(images), labels
    except Exception as error:  # every format and image decoder raises its own errors
        raise UsageError(f"{builder.data_path}, split {split}: {error}") from error


def _records(builder: Any, split: str) -> Sequence[bytes]:
    """Returns the records of a split, each of them a serialized tf.train.Example."""
    import tensorflow_datasets as tfds

    info = builder.info
    if "array_record" in {file_format.value for file_format in info.available_file_formats()}:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
        return source.__getitems__(range(len(source)))
    if info.file_format.value != "tfrecord":
        raise UsageError(f"expected array_record or tfrecord files, not {info.file_format.value}")
    records = [record for path in info.splits[split].filepaths for record in _tfrecords(path)]
    if len(records) != info.splits[split].num_examples:
        raise UsageError(
            f"expected {info.splits[split].num_examples:,} records, found {len(records):,}"
        )
    return records


def _tfrecords(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the records of a TFRECORD file: length (8 bytes), its CRC (4), record, CRC (4)."""
    data, start = path.read_bytes(), 0
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 8], "little")
        if end + 4 > len(data):
            raise UsageError(f"{path} has {len(data):,} bytes, expected at least {end + 4:,}")
        yield data[start + 12 : end]
        start = end + 4


def _cache_path(full_name: str, source: str) -> pathlib.Path:
    """A name that depends on the files, so that a dataset prepared again is decoded again."""
    import platformdirs

    files = sorted((file.name, file.stat()) for file in os.scandir(source))
    stats = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    key = hashlib.sha256(repr((_CACHE_FORMAT, full_name, stats)).encode()).hexdigest()[:32]
    name = f"{full_name.replace('/', '-')}-{key}.npz"
    return platformdirs.user_cache_path("initjax") / "datasets" / name


def _cached(path: pathlib.Path, make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    """Returns the arrays from the cache file, or else makes them and writes it."""
    try:
        # Opened here, since np.load leaves damaged files open. It checks a CRC of every array.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[f"arr_{i}"] for i in range(4)]
    except OSError:  # absent or not readable
        pass
    except Exception as error:  # a damaged file can raise many errors
        _log.warning("%s is damaged (%s) and is replaced", path, error)
    arrays = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, *arrays)
        files.write(path, buffer.getvalue())
    except OSError as error:  # without a cache, the next run only takes longer
        _log.warning("cannot write %s (%s)", path, error)
    return arrays
