"""The protocol of claims in all orders of its steps: a model of the files, and the real code.

A process is a function that is run again and again: what it has asked of the files so far is
answered as before, and its next request ends it. So each state of all processes is reached once,
however many orders of steps lead there.
"""

import math
import pathlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import pytest

from experiments.common import claims, local_process

KEY = "k"
Steps = tuple[Any, ...]  # the answers to what a process asked


class World(NamedTuple):
    """All that processes share, and what is to be checked."""

    files: frozenset[tuple[str, str]]
    stored: bool
    trained: frozenset[int]
    """Processes that have trained the run, or do so, and don't give up."""
    suspended: frozenset[int]
    """Processes that others have found dead."""


class _NextError(Exception):
    """A process asks for something that has not been answered so far."""


def _answers(
    world: World, number: int, request: Steps | None, stale: bool
) -> Iterator[tuple[Any, World]]:
    """The possible answers to a request, each with the world after it."""
    files = dict(world.files)
    kind, *rest = request or ("nothing",)
    if kind == "create":
        path, owner = rest
        yield path not in files, _with(world, {path: owner} | files)
    elif kind == "read":
        yield files.get(rest[0]), world
    elif kind == "write":
        path, content = rest
        yield None, _with(world, {**files, path: content})
    elif kind == "remove":
        yield None, _with(world, {path: files[path] for path in files if path != rest[0]})
    elif kind == "lives":  # as far as others can tell: it may be suspended at any time
        owner = rest[0]
        if owner in files:
            yield True, world
        other = int(owner.removeprefix("owner-"))
        gone = _with(world, {path: files[path] for path in files if path != owner})
        suspended = world.suspended | ({other} if owner in files else set())
        yield False, gone._replace(suspended=suspended)
    elif kind == "stored":
        yield world.stored, world
        if stale and world.stored:
            yield False, world
    elif kind == "train":
        yield "to the end", world._replace(trained=world.trained | {number})
        if number == 0:  # as after a second Ctrl-C
            yield "not to the end", world
    elif kind == "store":
        yield None, world._replace(stored=True)


def _with(world: World, files: dict[str, str]) -> World:
    return world._replace(files=frozenset(files.items()))


class Model:
    """Runs processes in all orders.

    Args:
      monkeypatch: has the code of claims ask the model for files.
      processes: how many there are.
      stale: whether a process may miss that the run was stored.
      killed: after how many steps the first process is killed.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        processes: int,
        stale: bool = False,
        killed: float = math.inf,
    ):
        self._processes, self._stale, self._killed = processes, stale, killed
        self._answers: Steps = ()
        self._asked = 0
        self._requests: dict[Hashable, Steps | None] = {}
        for name, kind in (
            *(("_create", "create"), ("_owner", "read"), ("_content", "read")),
            *(("_write", "write"), ("_remove", "remove")),
        ):
            monkeypatch.setattr(claims, name, self._asker(kind))
        monkeypatch.setattr(claims.Claims, "_observed", lambda _, owner: self._ask("lives", owner))

    def _asker(self, kind: str) -> Callable[..., Any]:
        def ask(path: pathlib.Path, text: str = "", new: bool = False) -> Any:
            return self._ask(kind, path.name, *([text] if text else []))

        return ask

    def _ask(self, *request: Any) -> Any:
        if self._asked == len(self._answers):
            raise _NextError(request)
        self._asked += 1
        return self._answers[self._asked - 1]

    def _process(self, number: int) -> None:
        mine = claims.Claims(pathlib.Path("directory"), local_process.Process("", number, ""))
        mine._name = f"owner-{number}"
        mine.beat()
        for key in mine.claim([KEY], 1, lambda: {KEY} if self._ask("stored") else set()):
            if self._ask("train") == "to the end":
                self._ask("store")
                mine.release([key])
        mine.end()

    def _request(self, number: int, answers: Steps) -> Steps | None:
        """What a process asks for next; None: it has ended."""
        if (number, answers) not in self._requests:
            self._answers, self._asked = answers, 0
            self._requests[number, answers] = None
            try:
                if number or len(answers) < self._killed:
                    self._process(number)
            except _NextError as error:
                self._requests[number, answers] = error.args[0]
        return self._requests[number, answers]

    def states(self) -> Iterator[tuple[World, bool]]:
        """All states that can be reached, and whether all processes have ended in them."""
        histories: tuple[Steps, ...] = ((),) * self._processes
        start = World(frozenset(), False, frozenset(), frozenset()), histories
        seen, left = {start}, [start]
        while left:
            world, histories = left.pop()
            requests = [self._request(*pair) for pair in enumerate(histories)]
            yield world, not any(requests)
            for number, request in enumerate(requests):
                for answer, after in _answers(world, number, request, self._stale):
                    history = (*histories[number], answer)
                    state = after, (*histories[:number], history, *histories[number + 1 :])
                    if state not in seen:
                        seen.add(state)
                        left.append(state)

    def one_more(self, world: World) -> World:
        """The world after another process, which finds all others dead."""
        history: Steps = ()
        while request := self._request(self._processes, history):
            answers = list(_answers(world, self._processes, request, stale=False))
            answer, world = answers[-1]
            history = (*history, answer)
        return world


@pytest.mark.parametrize("processes", [2, 3])
def test_of_two_that_train_a_run_others_have_found_one_dead(processes, monkeypatch):
    twice = 0
    model = Model(monkeypatch, processes)
    for world, ended in model.states():
        assert len(world.trained - world.suspended) <= 1
        twice += len(world.trained) > 1
        if ended:  # whoever was suspended has gone on
            assert model.one_more(world).stored
            # Only who has given up leaves anything of a run that is stored, until `tidy`.
            assert {owner for _, owner in world.files if world.stored} <= {"owner-0"}
            assert not world.files or 0 not in world.trained
    assert twice  # the model has what the protocol must stand


def test_whenever_a_process_is_killed_its_run_is_trained_by_another(monkeypatch):
    lost = 0
    for steps in range(8):
        model = Model(monkeypatch, 2, killed=steps)
        for world, ended in model.states():
            assert len(world.trained - world.suspended - {0}) <= 1
            if ended:
                lost += not world.stored
                after = model.one_more(world)
                assert after.stored
                if not world.stored:  # or else `tidy` removes what the killed one has left
                    assert not any("." in path for path, _ in after.files)
    assert lost


def test_a_stale_listing_costs_only_time(monkeypatch):
    model = Model(monkeypatch, 2, stale=True)
    for world, ended in model.states():
        if ended:
            assert model.one_more(world).stored
