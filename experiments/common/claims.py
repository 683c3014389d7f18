"""Claims: which process trains which run, without locks and without comparing clocks.

    owner-ID         a process: where it runs, and a counter, its heartbeat
    KEY.GENERATION   a claim of a run: a symbolic link to its owner

**Protocol.** A process makes its owner file first, has a thread count in it every `BEAT` seconds,
and removes it when it ends. It claims a run by making KEY.0. If that exists and its owner is dead,
it makes KEY.1, and so on. Making a name that exists fails, so each claim has one owner. After a
claim is won, stored runs are looked up again, and if the run is among them, it isn't trained. The
claims of a run are removed only after it has been stored.

**Why no two living processes train a run.** Until a run is stored, none of its claims is removed.
So each of its generations is made once, and all owners but that of the last were dead when the next
one was made. After it has been stored, a claim can be won again, but then it is found to be stored.

**An owner is dead** if its file is gone, since it has ended or another process has found it dead;
if it was a process of this machine that is gone (same host name, same boot, same namespace of
process numbers: containers share the boot, but not the numbers); or if its counter has stood still
for `LEASE` of the observer's own heartbeats. Own heartbeats are a better clock than time: they
stop, too, while the file server does not answer or while the observer is suspended.

**Relied on**: making a name is atomic for all machines, as it is on NFS, Lustre, CephFS and GPFS;
and a small file that was written and closed is seen by who opens it afterwards, for heartbeats.
**Not relied on**: file locks, clocks, fresh listings of directories, process numbers across
machines.

**Worst case**: two processes train the same runs, whose results are equal bit for bit, and which
are read once. So only time is lost. This happens if a process is suspended or cut off for longer
than the lease and then goes on; if a stored run isn't seen yet, because a listing is stale; or on
machines cloned while running, which look like one. A claim of a process that was killed on another
machine costs waiting for the lease, once all other runs are done.
"""

import contextlib
import itertools
import json
import os
import pathlib
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from typing import NamedTuple

from experiments.common import files, local_process
from experiments.common.local_process import Process

BEAT = 5.0  # seconds between heartbeats: 1,000 processes write 200 small files per second
LEASE = 12  # heartbeats, about a minute

_OWNER = "owner-"


class _Seen(NamedTuple):
    """What was seen of another process."""

    content: str
    """Of its owner file."""
    beats: int
    """Of this process, when that content was seen first."""
    alive: bool
    """Whether it is known to have been alive then."""


class Claims:
    """The claims of this process. Enter it as a context, which makes the directory if needed.

    Args:
      directory: holds nothing else; for all processes that may train the same runs.
      process: which process this is.
    """

    def __init__(self, directory: pathlib.Path, process: Process | None = None):
        self.directory = directory
        self._process = process or local_process.this()
        self._name = _OWNER + os.urandom(8).hex()
        self._beats = 0
        self._held: dict[str, int] = {}  # the generations of own claims
        self._seen: dict[str, _Seen] = {}
        self._lives: dict[str, bool | None] = {}  # of owners, while one question is answered
        self._doubtful: set[str] = set()
        self._ended = threading.Event()
        self._error: OSError | None = None

    def __enter__(self) -> "Claims":
        self.beat()
        self._heart = threading.Thread(target=self._keep_beating, daemon=True)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heart.join()
        self.end()

    def claim(
        self, keys: Iterable[str], most: int, finished: Callable[[], Container[str]]
    ) -> list[str]:
        """Claims runs for this process, until they are released or the process ends.

        Args:
          keys: of the runs to choose from, in order of preference.
          most: the maximum number of runs to claim.
          finished: returns the keys of all runs that are stored when it is called.

        Returns:
          The keys of runs that are neither finished nor claimed by a process that may be alive.
        """
        self._lives.clear()
        keys, free = iter(keys), []
        while True:
            won, passed = self._win(keys, most - len(free))
            done = finished() if won else ()
            late = [key for key in won if key in done]
            self.release(late)
            free += [key for key in won if key not in done]
            if not late:
                return free
            keys = itertools.chain((key for key in passed if key not in done), keys)

    def release(self, keys: Iterable[str]) -> None:
        """Removes the claims of runs that are stored."""
        for key in keys:
            # Also those of the dead, of which this run was taken over.
            for generation in range(self._held.pop(key, -1) + 1):
                _remove(self.directory / f"{key}.{generation}")

    def doubt(self) -> float | None:
        """Seconds until more is known of the processes that hold what `claim` could not get.

        It is 0 if something has become known since: `claim` may get more then. It is None if it is
        known of all of them whether they live.

        Raises:
          OSError: own heartbeats can't be written, so nothing will ever be known.
        """
        if self._error:
            raise self._error
        self._lives.clear()
        if known := {owner for owner in self._doubtful if self._is_alive(owner) is not None}:
            self._doubtful -= known
            return 0.0
        waited = [self._beats - self._seen[owner].beats for owner in self._doubtful]
        return BEAT * max(1, LEASE - max(waited)) if waited else None

    def beat(self) -> None:
        """Shows other processes that this one is alive."""
        path = self.directory / self._name
        content = f"{self._beats + 1:020d} {json.dumps(self._process)}\n"
        try:
            _write(path, content, new=self._beats == 0)
        except FileNotFoundError:  # removed: by hand, or because this process was suspended
            self.directory.mkdir(parents=True, exist_ok=True)
            _write(path, content, new=True)
        self._beats += 1

    def end(self) -> None:
        """Leaves all runs to other processes."""
        _remove(self.directory / self._name)

    def tidy(self, finished: Container[str], now: float) -> None:
        """Removes what processes that were killed may have left.

        Args:
          finished: the runs whose claims are removed.
          now: the time by the clock that gives the files of the directory their times. Owner files
            that haven't been written for a day are removed.
        """
        names = os.listdir(self.directory)
        for name in names:
            if name.partition(".")[0] in finished:
                _remove(self.directory / name)
        owners = (self.directory / name for name in names if name.startswith(_OWNER))
        for path in itertools.islice(owners, 100):  # or starting 1,000 processes would take long
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > files.ABANDONED:
                    _remove(path)

    def clear(self) -> None:
        """Removes the directory, unless other processes use it; after this one has ended."""
        names = os.listdir(self.directory)
        if not any(name.startswith(_OWNER) for name in names):
            for name in names:
                _remove(self.directory / name)
            with contextlib.suppress(OSError):  # a process has begun to use it
                self.directory.rmdir()

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self.beat()
                self._error = None
            except OSError as error:  # such as a full disk; the next may succeed
                self._error = error

    def _win(self, keys: Iterator[str], most: int) -> tuple[list[str], list[str]]:
        """Makes claims, and returns the keys of those, and of the runs that it passed over."""
        won: list[str] = []
        passed: list[str] = []
        # Many processes may be at work on the first runs. So after each run that is taken, the next
        # leap is twice as far: among a thousand processes, one meets ten that are taken, not all.
        skip, leap = 0, 1
        while len(won) < most and (key := next(keys, None)) is not None:
            if skip:
                skip -= 1
                passed.append(key)
            # The owner of the first is looked at, so that the lease of a dead one begins.
            elif self._take(key, whoever=leap > 1):
                won.append(key)
            else:
                passed.append(key)
                skip, leap = leap, 2 * leap
        for key in reversed(passed):  # the later ones are taken by fewer
            if len(won) == most:
                break
            if self._take(key):
                won.append(key)
        return won, passed

    def _take(self, key: str, whoever: bool = False) -> bool:
        """Claims a run, if it is free.

        Args:
          key: of the run.
          whoever: whether it is enough that anyone holds it, dead or alive.
        """
        if key in self._held:
            return False
        generation = 0
        while True:
            path = self.directory / f"{key}.{generation}"
            made = self._make(path)
            if not made and whoever:
                return False
            # Or it was made at a first attempt, whose answer was lost on the way.
            if made or (owner := _owner(path)) == self._name:
                self._held[key] = generation
                return True
            # A claim that is gone was removed just now: the run has been stored.
            if owner is None or self._is_alive(owner or path.name) is not False:
                return False
            generation += 1

    def _make(self, path: pathlib.Path) -> bool:
        try:
            return _create(path, self._name)
        except FileNotFoundError:  # someone has removed the directory
            self.beat()
            return _create(path, self._name)

    def _is_alive(self, owner: str) -> bool | None:
        """Whether a process lives; None: unknown so far."""
        if owner not in self._lives:
            self._lives[owner] = self._observed(owner)
            if self._lives[owner] is None:
                self._doubtful.add(owner)
        return self._lives[owner]

    def _observed(self, owner: str) -> bool | None:
        content = _content(self.directory / owner)
        if content is None:
            return False
        try:
            process = Process(*json.loads(content[20:]))
        except (ValueError, TypeError):  # being written
            process = local_process.UNKNOWN
        here = process.place == self._process.place != ""
        seen = self._seen.get(owner)
        if seen is None or seen.content != content:
            seen = self._seen[owner] = _Seen(content, self._beats, here or seen is not None)
        if self._beats - seen.beats < LEASE and not (here and local_process.is_gone(process)):
            return True if seen.alive else None
        if owner.startswith(_OWNER):  # others are told, too; if it lives, it makes its file again
            _remove(self.directory / owner)
        return False


# All that touches files of the directory.


def _create(path: pathlib.Path, owner: str) -> bool:
    """Makes a claim; returns whether it did, or else it exists."""
    try:
        try:
            os.symlink(owner, path)  # one request to a file server, and complete at once
        except FileExistsError:
            raise
        except (OSError, NotImplementedError):  # not everywhere possible, as on Windows
            with open(path, "x", encoding="utf-8") as file:
                file.write(owner)
    except FileExistsError:
        return False
    return True


def _owner(path: pathlib.Path) -> str | None:
    """Who made a claim; empty while it is being written, None if there is no claim."""
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None
    except OSError:  # a file
        return _content(path)


def _content(path: pathlib.Path) -> str | None:
    """The text of a file, empty if it can't be read; None if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ""


def _write(path: pathlib.Path, content: str, new: bool) -> None:
    """Writes a file in place: its length never changes, and a full disk has room for it."""
    with open(path, "xb" if new else "r+b", buffering=0) as file:
        file.write(content.encode())


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
