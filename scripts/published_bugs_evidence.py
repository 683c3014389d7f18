"""Examines `initjax.audit` on buggy networks that others published, and on their repairs.

    python scripts/published_bugs_evidence.py

Audits each network of `scripts/published_bugs` on one batch of 256 examples, before its first step
and without knowing its optimizer. A fault counts as found if the verdict is not "ok", and as named
correctly if a finding of the most severe level has one of the causes that were written down before
the first audit. Everything that is reported about a repair or a false friend counts as a false
alarm.

Each fault is trained against its repair: 200 steps with 3 seeds. The error is the share of wrong
classes, or the mean squared error over the variance of the targets, whatever the loss and its scale
are. A fault must cost something: where it does not, it is harmless here, and an audit that reports
nothing is right. Needs Equinox (`pip install equinox`). About 10 minutes on 2 cores of a CPU.
"""

import statistics
import time
from typing import TYPE_CHECKING, Any

from audit_evidence import causes_of, show
from benchmarks import _results

if TYPE_CHECKING:
    from published_bugs.cases import Bug, Friend, Recipe

_STEPS, _EVERY, _SEEDS = 200, 20, 3
_PEERS = """\
What the tools' authors report about faults as published in the benchmarks, which are not the same
networks: of 52 programs in Keras, found / right cause: UMLAUT 50 / 14 (it warns always),
AUTOTRAINER 12 / 10, DeepLocalize 36 / 7, DeepFD 47 / 27 (DeepFD's own table). An independent study
with 33 faults: recall .15 to .33, or .21 to .55 where equivalent patches count, too. A study at
ICSE 2025 found few faults of these benchmarks faithful to their source and reproducible. These
tools read Keras or TensorFlow, and most need whole trainings."""


class Examiner:
    """Audits and trains recipes, each once."""

    def __init__(self) -> None:
        self._audits: dict[int, Any] = {}
        self._errors: dict[int, list[list[float]]] = {}

    def audit(self, recipe: "Recipe") -> Any:
        """The report, before training."""
        import jax

        import initjax

        if id(recipe) not in self._audits:
            apply, params = recipe.model(jax.random.key(0))

            def loss_fn(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
                return recipe.loss(apply(params, x), y)

            self._audits[id(recipe)] = initjax.audit(loss_fn, params, *recipe.data)
        return self._audits[id(recipe)]

    def errors(self, recipe: "Recipe") -> list[list[float]]:
        """The errors of each seed, every 20 steps of training."""
        if id(recipe) not in self._errors:
            self._errors[id(recipe)] = _trained(recipe)
        return self._errors[id(recipe)]


def _trained(recipe: "Recipe") -> list[list[float]]:
    import jax
    import optax
    from published_bugs.cases import error

    x, y = recipe.data
    apply, _ = recipe.model(jax.random.key(0))
    optimizer = recipe.optimizer

    # Not a `lax.scan` over the steps: on a CPU, JAX's convolutions are 5 times slower in loops.
    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        gradient = jax.grad(lambda params: recipe.loss(apply(params, x), y))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def outputs(params: Any) -> jax.Array:
        if recipe.alone:
            return jax.vmap(lambda one: apply(params, one[None])[0])(x)
        return apply(params, x)

    measure = jax.jit(lambda params: error(outputs(params), y))
    result = []
    for seed in range(_SEEDS):
        _, params = recipe.model(jax.random.key(seed))
        state, errors = optimizer.init(params), []
        for number in range(1, _STEPS + 1):
            params, state = step(params, state)
            if number % _EVERY == 0:
                errors.append(float(measure(params)))
        result.append(errors)
    return result


def _course(errors: list[list[float]]) -> list[float]:
    """The mean error over the training, of each seed."""
    return [statistics.fmean(one) for one in errors]


def _last(errors: list[list[float]]) -> float:
    return statistics.fmean(one[-1] for one in errors)


def _harm(faulty: list[list[float]], repaired: list[list[float]]) -> bool:
    """Whether the fault costs something: its mean error over the training is larger by a tenth, and
    no less than 0.01, and by twice the standard error of the difference between the seeds."""
    bad, good = _course(faulty), _course(repaired)
    costs = [one - other for one, other in zip(bad, good, strict=True)]
    spread = statistics.stdev(costs) / len(costs) ** 0.5
    return statistics.fmean(costs) > max(0.1 * statistics.fmean(good), 2 * spread, 0.01)


def _named(report: Any) -> str:
    return ", ".join(causes_of(report)) or "none"


def _bug_row(bug: "Bug", examiner: Examiner, train: bool) -> tuple[list[str], dict[str, bool]]:
    """The row of a bug, and what it counts as."""
    report, repaired = examiner.audit(bug.faulty), examiner.audit(bug.repaired)
    show(report)
    print("  repaired:")
    show(repaired)
    found = report.verdict != "ok"
    right = found and not set(causes_of(report)).isdisjoint(bug.causes)
    named = _named(report)
    if not bug.harmless and not right:
        named += f", not {' or '.join(bug.causes)}"
    costs = ["", ""]
    if train:
        errors = [examiner.errors(recipe) for recipe in (bug.faulty, bug.repaired)]
        costs = [f"{_last(one):.2g}" for one in errors]
        print(f"  error {' -> '.join(costs)}")
        if _harm(*errors) == bug.harmless:
            print(f"  LABEL: training says {'harmless' if not bug.harmless else 'harmful'}")
    row = [bug.name, bug.says + (" (harmless here)" if bug.harmless else "")]
    row += [report.verdict, named, *costs, _named(repaired)]
    return row, {"found": found, "right": right, "alarm": repaired.verdict != "ok"}


def _friend_row(
    friend: "Friend", examiner: Examiner, train: bool
) -> tuple[list[str], dict[str, bool]]:
    report = examiner.audit(friend.recipe)
    show(report)
    errors = ["", ""]
    if train:
        course = examiner.errors(friend.recipe)
        errors = [f"{statistics.fmean(one[0] for one in course):.2g}", f"{_last(course):.2g}"]
        print(f"  error {' -> '.join(errors)}")
    row = [friend.name, friend.says, report.verdict, _named(report), *errors]
    return row, {"alarm": report.verdict != "ok"}


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument(
        "--only",
        metavar="TEXT",
        help="only cases with this in their name or kind; prints tables and writes no file",
    )
    parser.add_argument(
        "--no-train", action="store_true", help="audits only; prints tables and writes no file"
    )
    options = parser.parse_args()

    from published_bugs.registry import BUGS, FRIENDS

    def chosen(text: str) -> bool:
        return options.only is None or options.only.lower() in text.lower()

    started, examiner, train = time.perf_counter(), Examiner(), not options.no_train
    bugs: dict[str, list[Any]] = {}
    for kind, group in BUGS.items():
        for bug in group:
            if chosen(f"{kind} {bug.name}"):
                print(f"{time.perf_counter() - started:.0f} s: {bug.name}: {bug.says}", flush=True)
                bugs.setdefault(kind, []).append((bug, *_bug_row(bug, examiner, train)))
    friends = []
    for friend in FRIENDS:
        if chosen(f"false friends {friend.name}"):
            print(f"{time.perf_counter() - started:.0f} s: {friend.name}", flush=True)
            friends.append(_friend_row(friend, examiner, train))
    body = _evidence(bugs, friends, time.perf_counter() - started)
    if options.only or options.no_train:
        print(f"\n{body}")
    else:
        packages = ("initjax", "jax", "flax", "equinox", "optax")
        _results.write("published_bugs", "Published bugs", body, packages, options.results)


def _evidence(
    bugs: dict[str, list[tuple["Bug", list[str], dict[str, bool]]]],
    friends: list[tuple[list[str], dict[str, bool]]],
    seconds: float,
) -> str:
    """The counts, the peers' and the tables."""
    every = [one for group in bugs.values() for one in group]
    faults = [one for one in every if not one[0].harmless]
    harmless = [one for one in every if one[0].harmless]
    found = sum(counts["found"] for _, _, counts in faults)
    right = sum(counts["right"] for _, _, counts in faults)
    alarms = [
        (sum(counts["alarm"] for _, _, counts in every), len(every), "repairs"),
        (sum(counts["found"] for _, _, counts in harmless), len(harmless), "harmless ones"),
        (sum(counts["alarm"] for _, counts in friends), len(friends), "false friends"),
    ]
    silent = [bug.name for bug, _, counts in faults if not counts["found"]]
    wrong = [bug.name for bug, _, counts in faults if counts["found"] and not counts["right"]]
    parts = [
        f"Faults found {found} of {len(faults)}, causes named correctly {right} of {len(faults)}."
        f" False alarms: {', '.join(f'{k} of {n} {what}' for k, n, what in alarms)}."
        f" {seconds / 60:.0f} minutes.",
        f"Not found: {'; '.join(silent) or 'none'}. Named wrongly: {'; '.join(wrong) or 'none'}.",
        _PEERS,
        f"Errors are those after {_STEPS} steps, means of {_SEEDS} seeds: the share of wrong"
        " classes, or the mean squared error over the variance of the targets, at most 10.",
    ]
    head = ["published as", "what", "verdict", "cause named", "error", "repaired", "alarms there"]
    for kind, group in bugs.items():
        parts += [f"## {kind}", _results.table(head, [row for _, row, _ in group])]
    if friends:
        head = ["looks like a bug", "and is none", "verdict", "alarms", "error, 20 steps", "200"]
        parts += ["## False friends", _results.table(head, [row for row, _ in friends])]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
