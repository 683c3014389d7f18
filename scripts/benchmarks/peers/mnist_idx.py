"""The data and the arguments of the peers: the same MNIST files, read with NumPy."""

import gzip
import pathlib
import sys

import numpy as np

_FOLDER = pathlib.Path(__file__).parents[3] / "experiments/common/mnist"


def load():
    """Returns ((train images, train labels), (test images, test labels)), uint8."""

    def read(name, offset):
        return np.frombuffer(
            gzip.decompress((_FOLDER / name).read_bytes()), np.uint8, offset=offset
        )

    return tuple(
        (
            read(f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 784),
            read(f"{split}-labels-idx1-ubyte.gz", 8),
        )
        for split in ("train", "t10k")
    )


def epochs():
    """The number of epochs: the first argument of the script, 5 by default."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else 5


def runs():
    """The number of networks, trained one after another: the second argument, 1 by default."""
    return int(sys.argv[2]) if len(sys.argv) > 2 else 1
