"""The runs of a directory that are in progress: their state, to go on bit for bit.

    .unfinished/KEY.safetensors   the state and the history of a run, after some of its steps

A file is complete or absent, is checked when it is read, and is removed when its run is finished.
So there are only files of runs that a process is training, or was training when it was stopped.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Collection, Iterable, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from experiments.common import array_files, files

FORMAT = "initjax unfinished run 1"
"""Changes with what a file holds."""

_WRITERS = 16  # threads, since a file server takes a while for each of many files


class Unusable(ValueError):
    """A file can't be used; the message says why."""


class Point(NamedTuple):
    """The state of a run."""

    steps: int
    """How many are done, over all epochs."""
    seconds: float
    """How long they took."""
    arrays: Mapping[str, np.ndarray]
    """What training needs to go on, by name."""


class Unfinished:
    """The runs in progress of a directory."""

    def __init__(self, directory: str | pathlib.Path):
        self._folder = pathlib.Path(directory) / ".unfinished"

    def keys(self) -> set[str]:
        """Those of all runs that have a file, which may be of any process."""
        return {path.stem for path in self._folder.glob("[!.]*.safetensors")}

    def save(self, points: Mapping[str, Point], origin: str) -> None:
        """Writes the state of runs.

        Args:
          points: by the keys of the runs.
          origin: of the numbers, see `load`.
        """

        def write(key: str) -> None:
            content = _encoded(key, points[key], origin)
            while True:
                self._folder.mkdir(exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another process has removed it
                    files.write(self.path(key), content)
                    return

        with futures.ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(write, points))

    def load(self, key: str, origin: str, like: Mapping[str, Any]) -> Point:
        """Reads the state of a run.

        Args:
          key: of the run, which has a file.
          origin: the device and the versions that are to go on. Those that are written have to be
            the same, since a mixture could not be trained again.
          like: what has the shapes and dtypes of the arrays.

        Raises:
          Unusable: the file is damaged, or of something else.
        """
        try:
            about, arrays = array_files.decoded(self.path(key).read_bytes())
            if about["format"] != FORMAT:
                raise Unusable(f"its format is {about['format']}, not {FORMAT}")
            if about["digest"] != _digest(about, arrays):
                raise Unusable("it is damaged")
        except OSError as error:
            raise Unusable(f"it can't be read ({error.strerror})") from None
        except (array_files.Damaged, KeyError):
            raise Unusable("it is damaged") from None
        if about["key"] != key:
            raise Unusable("it is of another run")
        if about["origin"] != origin:
            raise Unusable(f"it was written by {about['origin']}; this is {origin}")
        if _kinds(arrays) != _kinds(like):
            raise Unusable("it is of another network")
        return Point(int(about["steps"]), float(about["seconds"]), arrays)

    def remove(self, keys: Iterable[str]) -> None:
        """Removes the files of finished runs, and the folder if it is empty then."""
        if not self._folder.exists():
            return
        for key in keys:
            with contextlib.suppress(OSError):
                self.path(key).unlink()
        files.remove_empty([self._folder])

    def clean(self, finished: Collection[str]) -> None:
        """Removes what killed processes have left over."""
        files.remove_abandoned(self._folder, ".*.tmp")
        self.remove(self.keys().intersection(finished))

    def path(self, key: str) -> pathlib.Path:
        """The file of a run."""
        return self._folder / f"{key}.safetensors"


def _encoded(key: str, point: Point, origin: str) -> bytes:
    about = {
        "format": FORMAT,
        "key": key,
        "origin": origin,
        "steps": str(point.steps),
        "seconds": repr(point.seconds),
    }
    about["digest"] = _digest(about, point.arrays)
    return array_files.encoded(point.arrays, about)


def _digest(about: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    said = {name: about[name] for name in about if name != "digest"}
    found = hashlib.sha256(json.dumps([said, _kinds(arrays)], sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(arrays[name].tobytes())
    return found.hexdigest()


def _kinds(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
