"""What the processes beside process 0 do: they compute the same, and print and write nothing."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from experiments.common import console, fitting, meshes, processes, starting

Save = Callable[..., Callable[[fitting.Point], None]]
"""`resuming.saver` of a run, as a function of its last arguments."""


def follow(
    train: Callable[..., Iterator[fitting.Epoch]],
    start: starting.Start,
    placement: meshes.Placement,
    audited: bool,
    inspected: bool,
    save: Save | None,
    finished: list[fitting.Epoch],
) -> None:
    """Trains together with process 0, in `mnist.run`, wherever that needs the others.

    Args:
      train: `fitting.fit` of the run, as a function of `watch`, `inspect` and `pause`.
      start: the starting point of the run.
      placement: the devices of all processes.
      audited: whether process 0 audits the network at its start.
      inspected: whether process 0 inspects the parameters during training.
      save: saves checkpoints; None if there are none.
      finished: the epochs so far, to which the others are added.
    """

    def inspect(step: int, packed: Any) -> None:
        placement.host(packed)

    def watch(*_: Any) -> None:
        pass

    live = processes.from_main("live", lambda: False)
    with contextlib.ExitStack() as contexts:
        pause = None
        if save:
            asked = contexts.enter_context(console.interrupt_later(None))
            pause = save(finished, processes.first_asked(asked))
        if audited:
            placement.host(start.packed)
        watched, inspects = watch if live else None, inspect if inspected else None
        for epoch in train(watch=watched, inspect=inspects, pause=pause):
            placement.host(epoch.params)
            finished.append(epoch._replace(params=None))  # their buffers are reused
