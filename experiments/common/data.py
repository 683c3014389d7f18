"""Datasets: uint8 images and integer labels in memory, whatever the source.

`load()` reads the bundled MNIST. Other datasets come from a directory of IDX files (the format of
MNIST, Fashion-MNIST, KMNIST and EMNIST) or from TensorFlow Datasets (TFDS), which must have
prepared them and are read without TensorFlow. Images are not changed: the model scales them on the
device, and the letters of EMNIST are rotated as in its files.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import math
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from experiments.common.config import UsageError

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_BUNDLED = pathlib.Path(__file__).with_name("mnist")
_BUNDLED_SHA256 = {  # of the .gz files, in the order of _ARRAYS
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
# As in "emnist-letters-test-images-idx3-ubyte.gz". MNIST's test set is called t10k, and its files
# are also found as "train-images.idx3-ubyte".
_IDX_NAME = re.compile(
    r"(?:(?P<prefix>.+)-)?(?P<split>train|test|t10k)-(?P<content>images|labels)"
    r"[-.]idx[13]-ubyte(?:\.gz)?"
)
_TFDS_NAME = re.compile(r"\w+(/[\w.+-]+)?(:[\d.*]+)?")


@dataclasses.dataclass(frozen=True, eq=False)  # equal if identical: arrays have no truth value
class Dataset:
    """A classification dataset in memory, checked and read-only.

    Attributes:
        name: Such as `mnist` or `emnist/letters`.
        source: "bundled", or the absolute directory from which it was read.
        digest: SHA-256 (hex) of `num_classes` and of the arrays with their names and shapes. It
            does not depend on the files: compressed, uncompressed and cached copies have the same
            digest. It does depend on the order of the examples.
        num_classes: Labels lie in [0, num_classes).
        train_images: uint8, (n, height, width, channels).
        train_labels: int32, (n,).
        test_images: As `train_images`, with the same height, width and channels.
        test_labels: As `train_labels`.
    """

    name: str
    source: str
    digest: str
    num_classes: int
    train_images: np.ndarray = dataclasses.field(repr=False)
    train_labels: np.ndarray = dataclasses.field(repr=False)
    test_images: np.ndarray = dataclasses.field(repr=False)
    test_labels: np.ndarray = dataclasses.field(repr=False)


def load(
    name: str | None = None,
    data_dir: str | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Loads a dataset without downloading anything.

    The first of these that applies:

    1. No `data_dir`, and no name or `mnist`: the bundled MNIST.
    2. `data_dir` holds IDX files: those. The dataset is named by `name`, or by the prefix of its
       files, or by its directory. If there are several datasets, as in EMNIST's archive, the name
       chooses one: `emnist-letters` or `emnist/letters`. The largest label sets the number of
       classes.
    3. A dataset that TFDS has prepared in `data_dir`, or in its own data directory. Images are
       decoded once and then cached, in `$XDG_CACHE_HOME` if that is set.

    Args:
        name: The name; for TFDS `NAME` or `NAME/CONFIG`, optionally with `:VERSION`.
        data_dir: A directory of IDX files, or a data directory of TFDS.
        watch: Called with (images so far, all of them) while images of TFDS are decoded, which
            takes a while the first time.

    Returns:
        The whole dataset, in the order in which it is stored.

    Raises:
        UsageError: If there is no such dataset, it is not prepared, or it is invalid. The message
            is one line, and calls the arguments `--dataset` and `--data_dir`.

    Example:
        >>> mnist = load()
        >>> mnist.train_images.shape, mnist.test_labels.shape, mnist.num_classes
        ((60000, 28, 28, 1), (10000,), 10)
    """
    name, files = _locate(name, data_dir)
    if not files:
        from experiments.common import tfds_data

        return _checked(*tfds_data.load(name, data_dir, watch))
    checksums = {} if data_dir else _BUNDLED_SHA256
    arrays = []
    for split in ("train", "test"):
        images, labels = files[f"{split}_images"], files[f"{split}_labels"]
        arrays.append(_read_idx(images, 3, checksums)[..., np.newaxis])
        arrays.append(_read_idx(labels, 1, checksums).astype(np.int32))
        if len(arrays[-2]) != len(arrays[-1]):
            raise UsageError(
                f"{images} holds {len(arrays[-2]):,} images but {labels.name} holds "
                f"{len(arrays[-1]):,} labels, expected equal numbers"
            )
    num_classes = 1 + max(int(labels.max(initial=0)) for labels in arrays[1::2])
    source = os.path.abspath(os.path.expanduser(data_dir)) if data_dir else "bundled"
    return _checked(name, source, num_classes, arrays)


def check(name: str | None = None, data_dir: str | None = None) -> None:
    """Checks the arguments of `load` without reading data or importing anything heavy.

    Args:
        name: As for `load`.
        data_dir: As for `load`.

    Raises:
        UsageError: If `load` is sure to fail: the directory can't be read, its IDX files are
            incomplete or belong to several datasets, or the name is not valid.

    Example:
        >>> check("mnist")
    """
    _locate(name, data_dir)


def needs_tfds(name: str | None = None, data_dir: str | None = None) -> bool:
    """Whether `load` imports TFDS; raises as `check` does.

    While TFDS is imported, it replaces Python's `import` in all threads, so nothing else may be
    imported at the same time.
    """
    return not _locate(name, data_dir)[1]


def _locate(name: str | None, data_dir: str | None) -> tuple[str, dict[str, pathlib.Path]]:
    """Returns the name and the four IDX files by array; no files means that TFDS has it."""
    if data_dir is None and name in (None, "mnist"):
        paths = (_BUNDLED / f"{file}.gz" for file in _BUNDLED_SHA256)
        return "mnist", dict(zip(_ARRAYS, paths, strict=True))
    if data_dir is not None and (sets := _idx_sets(data_dir)):
        return _choose(sets, name, data_dir)
    if name is None:
        raise UsageError(
            f"--data_dir={data_dir} holds no IDX files (train-images-idx3-ubyte[.gz] and so on); "
            "if it is a data directory of TFDS, name the dataset with --dataset=NAME"
        )
    if not _TFDS_NAME.fullmatch(name):
        raise UsageError(
            f"--dataset={name} is not a valid name: "
            "expected NAME, NAME/CONFIG or NAME:VERSION, such as mnist or emnist/letters"
        )
    return name, {}


def _idx_sets(data_dir: str) -> dict[str, dict[str, pathlib.Path]]:
    """Returns the directory's IDX files, by prefix (empty if they have none) and array."""
    folder = pathlib.Path(os.path.abspath(os.path.expanduser(data_dir)))
    try:
        paths = sorted(folder / name for name in os.listdir(os.path.expanduser(data_dir)))
        # Kaggle ships each file in a directory of the same name, sometimes beside the file itself.
        named = [path for path in paths if _IDX_NAME.fullmatch(path.name) and path.is_dir()]
        inside = [file for path in named for file in sorted(path.iterdir())]
    except OSError as error:
        raise UsageError(f"--data_dir={data_dir} cannot be read: {error.strerror}") from error
    sets: dict[str, dict[str, pathlib.Path]] = {}
    # The last of those with the same content counts: a file that is neither in a directory of its
    # own nor compressed.
    for path in [*reversed(inside), *reversed(paths)]:
        match = _IDX_NAME.fullmatch(path.name)
        if match and not path.is_dir():
            split = "train" if match["split"] == "train" else "test"
            sets.setdefault(match["prefix"] or "", {})[f"{split}_{match['content']}"] = path
    return sets


def _choose(
    sets: dict[str, dict[str, pathlib.Path]], name: str | None, data_dir: str
) -> tuple[str, dict[str, pathlib.Path]]:
    """Returns the name and the files of the chosen dataset."""

    def plain(text: str) -> str:
        return re.sub("[/_]", "-", text.lower())

    folder = os.path.basename(os.path.abspath(os.path.expanduser(data_dir)))
    named = {prefix or folder: files for prefix, files in sets.items()}
    if name is None and len(named) == 1:
        name = next(iter(named))
    matches = [files for key, files in named.items() if name and plain(key) == plain(name)]
    if list(sets) == [""]:  # files without a prefix match any name
        matches = [sets[""]]
    if not name or not matches:
        raise UsageError(
            f"--data_dir={data_dir} holds the IDX files of {', '.join(sorted(named))}: "
            f"choose one with --dataset=NAME{f', not {name}' if name else ''}"
        )
    if missing := [array.replace("_", " ") for array in _ARRAYS if array not in matches[0]]:
        raise UsageError(
            f"--data_dir={data_dir}: the IDX files of {name} lack the {' and the '.join(missing)}; "
            f"found {', '.join(sorted(path.name for path in matches[0].values()))}"
        )
    return name, matches[0]


def _read_idx(path: pathlib.Path, ndim: int, checksums: dict[str, str]) -> np.ndarray:
    """Reads an IDX file of bytes: a magic number, `ndim` big-endian sizes, then the values."""
    remedy = "restore it from the repository" if checksums else "download the file again"
    try:
        data = path.read_bytes()
        if checksums and (found := hashlib.sha256(data).hexdigest()) != checksums[path.stem]:
            raise UsageError(
                f"{path} is damaged: {len(data):,} bytes with sha256 {found}, "
                f"expected sha256 {checksums[path.stem]}; {remedy}"
            )
        if data.startswith(b"\x1f\x8b"):  # browsers may uncompress a file and keep its .gz
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read ({error}); {remedy}") from error
    header, magic = 4 + 4 * ndim, bytes([0, 0, 8, ndim])  # 8 means unsigned bytes
    if len(data) < header or data[:4] != magic:
        raise UsageError(
            f"{path} is not an IDX file of bytes in {ndim} dimensions: its {len(data):,} bytes "
            f"begin with 0x{data[:4].hex()}, expected 0x{magic.hex()}"
        )
    shape = tuple(np.frombuffer(data, ">u4", ndim, offset=4).tolist())
    if len(data) != header + math.prod(shape):
        raise UsageError(
            f"{path} has {len(data):,} bytes uncompressed, expected {header + math.prod(shape):,} "
            f"for the shape {shape} in its header; {remedy}"
        )
    return np.frombuffer(data, np.uint8)[header:].reshape(shape)


def _checked(name: str, source: str, num_classes: int, arrays: Sequence[np.ndarray]) -> Dataset:
    """Checks what must hold for every dataset, and computes the digest."""

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise UsageError(f"dataset {name} from {source}: {problem}")

    digest = hashlib.sha256(f"num_classes {num_classes}\n".encode())
    for field, array in zip(_ARRAYS, arrays, strict=True):
        dtype, ndim = ("uint8", 4) if field.endswith("images") else ("int32", 1)
        found = f"{field} is {array.dtype} {array.shape}"
        require(array.dtype == dtype and array.ndim == ndim, f"{found}, expected {ndim}-d {dtype}")
        require(array.size > 0, f"{found}, expected at least one example")
        if ndim == 1:
            low, high = int(array.min()), int(array.max())
            found = f"{field} run from {low} to {high}"
            require(low >= 0 and high < num_classes, f"{found}, expected 0 to {num_classes - 1}")
        digest.update(f"{field} {dtype} {array.shape}\n".encode())
        digest.update(array.data.cast("B"))
        array.flags.writeable = False
    train, test = arrays[0].shape[1:], arrays[2].shape[1:]
    require(train == test, f"train images are {train} but test images {test}, expected one shape")
    return Dataset(name, source, digest.hexdigest(), num_classes, *arrays)
