"""Measures how far `initjax.audit` can be trusted, on models with and without a planted fault.

    python scripts/audit_evidence.py

Audits each model of `scripts/audit_zoo` and `scripts/published_models` on one batch before its
first step. A fault counts as found if the verdict is not "ok", and as named correctly if a finding
of the most severe level has a cause that fits. The audit was written with these kinds of fault in
mind: the counts show that it does what it was built for, not how often it is wrong on other models.

Training shows what a fault costs and what `initjax.fix` regains: 200 steps from the parameters as
they are, and 200 from the repaired ones, with one seed. Shown are loss and accuracy on 1,000
training examples. Healthy models are trained too, to show that they are healthy. Needs Equinox
(`pip install equinox`). About 30 minutes on 2 cores of a CPU.
"""

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

from benchmarks import _results

if TYPE_CHECKING:
    from audit_zoo.cases import Case

_STEPS, _EXAMPLES = 200, 1000
_LEVELS = ("warning", "failure")  # by severity


@dataclasses.dataclass(frozen=True)
class Score:
    """The loss, and the accuracy of classifiers, None for other models."""

    loss: float
    accuracy: float | None

    def __str__(self) -> str:
        if not math.isfinite(self.loss):
            return "diverged"
        accuracy = "" if self.accuracy is None else f" / {self.accuracy:.0%}"
        return f"{self.loss:.3g}{accuracy}"


class Trainer:
    """Trains a case from any parameters; compiled once."""

    def __init__(self, case: "Case"):
        import jax
        import optax

        @jax.jit
        def score(params: Any, *examples: jax.Array) -> tuple[Any, Any]:
            accuracy = case.accuracy(params, *examples) if case.classifies else None
            return case.loss_fn(params, *examples), accuracy

        # Not a `lax.scan` over the steps: on a CPU, JAX's convolutions are 5 times slower in loops.
        @jax.jit
        def step(params: Any, state: Any, *batch: jax.Array) -> tuple[Any, Any]:
            gradient = jax.grad(case.loss_fn)(params, *batch)
            updates, state = case.optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        self._case, self._score, self._step = case, score, step

    def untrained(self, params: Any) -> Score:
        """The score of these parameters."""
        loss, accuracy = self._score(params, *(array[:_EXAMPLES] for array in self._case.data))
        return Score(float(loss), None if accuracy is None else float(accuracy))

    def trained(self, params: Any) -> Score:
        """The score of these parameters after 200 steps."""
        state = self._case.optimizer.init(params)
        for number in range(_STEPS):
            params, state = self._step(params, state, *self._case.batch(number))
        return self.untrained(params)


def causes_of(report: Any) -> list[str]:
    """The causes of a report's most severe findings, each once."""
    levels = {finding.level for finding in report.findings}
    worst = [level for level in _LEVELS if level in levels][-1:]
    return list(dict.fromkeys(f.cause for f in report.findings if f.level in worst))


def show(report: Any) -> None:
    """Prints the verdict and the findings."""
    print(f"  verdict {report.verdict}")
    for finding in report.findings:
        layers = ", ".join(finding.layers[:3]) + (", ..." if len(finding.layers) > 3 else "")
        print(f"  {finding.level} {finding.cause} [{layers}]: {finding.message} {finding.remedy}")


def faulty_row(case: "Case") -> tuple[list[str], bool, bool]:
    """The row of a model with a fault; whether it was found, and whether named correctly."""
    from audit_zoo.cases import KEY

    import initjax

    # The audit before the repair is the one that `initjax.audit` makes: no need to make it twice.
    params, repair = initjax.fix(
        case.loss_fn, case.params, *case.batch(0), key=KEY, optimizer=case.optimizer
    )
    report = repair.before
    show(report)
    print(f"  after fix, which changed {len(repair.changes)} parameters:")
    show(repair.after)
    causes = causes_of(report)
    found, right = report.verdict != "ok", not set(causes).isdisjoint(case.causes)
    named = ", ".join(causes) or "none"
    trainer = Trainer(case)
    before, after = trainer.trained(case.params), trainer.trained(params)
    print(f"  before {before}, after {after}")
    wrong = "" if right else f", not {' or '.join(case.causes)}"
    row = [case.name, case.framework, case.fault, report.verdict, named + wrong]
    row += [str(before), str(after)]
    return row, found, right


def healthy_row(case: "Case") -> tuple[list[str], bool]:
    """The row of a model without a fault, and whether there was an alarm."""
    import initjax

    report = initjax.audit(case.loss_fn, case.params, *case.batch(0), optimizer=case.optimizer)
    show(report)
    trainer = Trainer(case)
    before, after = trainer.untrained(case.params), trainer.trained(case.params)
    print(f"  untrained {before}, trained {after}")
    alarms = ", ".join(dict.fromkeys(finding.cause for finding in report.findings))
    row = [case.name, case.framework, report.verdict, alarms or "none", str(before), str(after)]
    return row, report.verdict != "ok"


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="functions of these two packages, separated by commas, instead of all; prints their"
        " tables and writes no file",
    )
    options = parser.parse_args()
    only = set(options.only.split(",")) if options.only else set()

    from audit_zoo.faulty import FAULTY
    from audit_zoo.healthy import HEALTHY
    from published_models.registry import PUBLISHED

    makes = (*FAULTY, *HEALTHY, *PUBLISHED)
    names = [make.__name__ for make in makes]
    if unknown := sorted(only.difference(names)):
        parser.error(f"unknown model {', '.join(unknown)}; valid models: {', '.join(names)}")
    started, faulty, healthy, published = time.perf_counter(), [], [], []
    for make in makes:
        if not only or make.__name__ in only:
            case = make()
            print(f"{time.perf_counter() - started:.0f} s: {make.__name__}", flush=True)
            if case.causes:
                faulty.append(faulty_row(case))
            else:
                (published if make in PUBLISHED else healthy).append(healthy_row(case))
    body = evidence(faulty, healthy, published, time.perf_counter() - started)
    if only:
        print(f"\n{body}")
    else:
        packages = ("initjax", "jax", "flax", "equinox", "optax")
        _results.write("audit_evidence", "The audit: evidence", body, packages, options.results)


def evidence(
    faulty: list[tuple[list[str], bool, bool]],
    healthy: list[tuple[list[str], bool]],
    published: list[tuple[list[str], bool]],
    seconds: float,
) -> str:
    """The counts and the tables."""
    n = len(faulty)
    parts = [
        f"Faults found {sum(found for _, found, _ in faulty)} of {n},"
        f" causes named correctly {sum(right for _, _, right in faulty)} of {n},"
        f" false alarms {_alarms(healthy)}, and {_alarms(published)} models after public"
        " repositories."
        f" {seconds / 60:.0f} minutes.",
        "Loss and accuracy on 1,000 training examples, after 200 steps.",
    ]
    if faulty:
        head = ["model", "framework", "planted fault", "verdict", "cause named", "as it is"]
        table = _results.table([*head, "after `fix`"], [row for row, _, _ in faulty])
        parts += ["## Models with a planted fault", table]
    head = ["model", "framework", "verdict", "false alarms", "untrained", "after 200 steps"]
    for title, rows in (
        ("Healthy models", healthy),
        ("Healthy models after public repositories", published),
    ):
        if rows:
            parts += [f"## {title}", _results.table(head, [row for row, _ in rows])]
    return "\n\n".join(parts)


def _alarms(rows: list[tuple[list[str], bool]]) -> str:
    return f"{sum(alarm for _, alarm in rows)} of {len(rows)}"


if __name__ == "__main__":
    main()
