"""Measures how far `initjax.audit` can be trusted: on models with a planted fault and without any.

    python scripts/audit_evidence.py [--only=zeros,he_mlp]

Audits every model of `scripts/audit_zoo` on one batch before its first step, and prints the
README's tables. A fault is found if the verdict is not "ok", and named rightly if a finding of the
gravest level has a cause that fits. The audit was written with these kinds of fault in mind: the
counts say that it does what it is meant to do, not how often it errs on other models.

What a fault costs, and what `initjax.fix` regains, is shown by training: 200 steps from the
parameters as they are, and 200 from the mended ones; the loss and the accuracy are those on 1,000
training examples afterwards, of one seed. Healthy models are trained too, as proof that they are.
Needs Equinox (`pip install equinox`). 16 minutes on 2 busy cores of a CPU, 10 of
computing.
"""

import argparse
import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audit_zoo.cases import Case

_STEPS, _EXAMPLES = 200, 1000
_LEVELS = ("warning", "failure")  # by gravity


@dataclasses.dataclass(frozen=True)
class Score:
    """The loss, and the accuracy of what classifies, else None."""

    loss: float
    accuracy: float | None

    def __str__(self) -> str:
        if not math.isfinite(self.loss):
            return "diverged"
        accuracy = "" if self.accuracy is None else f" / {self.accuracy:.0%}"
        return f"{self.loss:.3g}{accuracy}"


class Trainer:
    """Trains a case from any parameters by one compiled step."""

    def __init__(self, case: "Case"):
        import jax
        import optax

        @jax.jit
        def score(params: Any, *examples: jax.Array) -> tuple[Any, Any]:
            accuracy = case.accuracy(params, *examples) if case.classifies else None
            return case.loss_fn(params, *examples), accuracy

        # No `lax.scan` over the steps: inside of loops JAX's convolutions on a CPU are 5 times as
        # slow.
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
    """The causes of a report's findings of its gravest level, each once."""
    levels = {finding.level for finding in report.findings}
    gravest = [level for level in _LEVELS if level in levels][-1:]
    return list(dict.fromkeys(f.cause for f in report.findings if f.level in gravest))


def show(report: Any) -> None:
    """Prints the verdict and what was found."""
    print(f"  verdict {report.verdict}")
    for finding in report.findings:
        layers = ", ".join(finding.layers[:3]) + (", ..." if len(finding.layers) > 3 else "")
        print(f"  {finding.level} {finding.cause} [{layers}]: {finding.message}; {finding.remedy}")


def faulty_row(case: "Case") -> tuple[list[str], bool, bool]:
    """The row of a model with a fault, whether that was found, and whether named rightly."""
    from audit_zoo.cases import KEY

    import initjax

    # Its audit beforehand is that of `initjax.audit`, and compiled once for both.
    params, repair = initjax.fix(
        case.loss_fn, case.params, *case.batch(0), key=KEY, optimizer=case.optimizer
    )
    report = repair.before
    show(report)
    print(f"  after fix, which changes {len(repair.changes)} parameters:")
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


def print_table(head: list[str], rows: list[list[str]]) -> None:
    if rows:
        print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        usage="python scripts/audit_evidence.py [options]", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", help="names of functions in scripts/audit_zoo, with commas")
    options = parser.parse_args()
    only = set(options.only.split(",")) if options.only else set()

    from audit_zoo.faulty import FAULTY
    from audit_zoo.healthy import HEALTHY

    names = [make.__name__ for make in (*FAULTY, *HEALTHY)]
    if unknown := sorted(only.difference(names)):
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(names)}")
    started, faulty, healthy = time.perf_counter(), [], []
    for make in (*FAULTY, *HEALTHY):
        if not only or make.__name__ in only:
            case = make()
            print(f"{time.perf_counter() - started:.0f} s: {make.__name__}", flush=True)
            if case.causes:
                faulty.append(faulty_row(case))
            else:
                healthy.append(healthy_row(case))

    head = ["model", "in", "planted fault", "verdict", "cause named", "as it is", "after `fix`"]
    print_table(head, [row for row, _, _ in faulty])
    head = ["model", "in", "verdict", "false alarms", "untrained", "after 200 steps"]
    print_table(head, [row for row, _ in healthy])
    n = len(faulty)
    print(
        f"\nfaults found {sum(found for _, found, _ in faulty)}/{n},"
        f" causes named rightly {sum(right for _, _, right in faulty)}/{n},"
        f" false alarms {sum(alarm for _, alarm in healthy)}/{len(healthy)};"
        f" {time.perf_counter() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
