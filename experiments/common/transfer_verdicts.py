"""What a family of networks shows about its best learning rates: sentences, tables, a record."""

import itertools
import textwrap
from typing import Any

import numpy as np

from experiments.common import description, statistics
from experiments.common.best_rates import Curves, Family, Losses
from experiments.common.statistics import Interval
from experiments.common.tables import Table

_WIDTH = 80  # of a terminal
_STAYS = 1.0  # log2 of the factor within which a best rate has to stay over all sizes


def title(family: Family) -> str:
    """The network and its training, such as "MLP, depth 3, relu; adam, batch 32, 300 steps"."""
    fields = family.fields
    name, norm = description.kind(fields["model"], fields["residual"], fields["normalization"])
    other = "depth" if family.axis == "width" else "width"
    length = description.duration(fields["epochs"], fields["steps"])
    return (
        f"{name[0].upper()}{name[1:]}{norm}, {other} {family.fixed}, {fields['activation']};"
        f" {fields['optimizer']}, batch {fields['batch_size']}, {length};"
        f" {description.count(len(family.seeds), 'seed')}"
    )


def conclusions(family: Family) -> list[str]:
    """What the runs show, in sentences that follow from intervals over seeds."""
    if len(family.seeds) < 2:
        return ["one seed shows no intervals: give --seeds=3 or more"]
    found = [say(family, curves) for say in (drift, cost, growth) for curves in family.curves]
    for first, other in itertools.combinations(family.curves, 2):
        found += [_least_drift(first, other), _lowest_loss(family, first, other)]
    return [sentence for sentence in found if sentence]


def drift(family: Family, curves: Curves) -> str:
    """Whether the best rate of a parametrization moves with size."""
    axis, rates = family.axis, curves.best
    if curves.at_edge.any():
        sizes = ", ".join(str(size) for size in curves.sizes[curves.at_edge])
        return (
            f"{curves.scheme}: no drift can be told, since the best rate of {axis} {sizes} is at"
            " the edge of those tried; try rates beyond it"
        )
    slope = statistics.mean_interval(curves.slopes)
    law = f"{axis}^{_exponent(slope)}"
    ends = f"{_rate(rates[0].value)} at {axis} {curves.sizes[0]}"
    ends += f", {_rate(rates[-1].value)} at {curves.sizes[-1]}"
    octaves = np.log2(curves.sizes[-1] / curves.sizes[0])
    small = max(abs(slope.low), abs(slope.high)) * octaves <= _STAYS
    moves = slope.low > 0 or slope.high < 0
    if small and moves:
        return f"{curves.scheme}: the best rate moves by less than a factor of 2, as {law}: {ends}"
    if small:
        return f"{curves.scheme}: the best rate stays within a factor of 2: {law}; {ends}"
    if moves:
        return f"{curves.scheme}: the best rate moves as {law}: {ends}"
    return (
        f"{curves.scheme}: it is not settled whether the best rate moves: {law}; {ends}; more seeds"
        " would tell"
    )


def cost(family: Family, curves: Curves) -> str:
    """What the largest size loses at the best rate of the smallest one."""
    transferred, searched = curves.at_best(-1, of=0), curves.at_best(-1, of=-1)
    chosen = [curves.means[place].argmin() for place in (0, -1)]
    rates = [_rate(float(curves.rates[place])) for place in chosen]
    where = f"{curves.scheme}: at {family.axis} {curves.sizes[-1]}, the best rate of"
    where += f" {curves.sizes[0]} ({rates[0]})"
    # Without one seed, another rate may be the best, but then the two aren't told apart.
    if chosen[0] == chosen[1] or np.array_equal(transferred.train, searched.train):
        return f"{where} is also its own best of those tried: training loss {_mean(searched)}"
    loss = statistics.mean_interval(transferred.train - searched.train)
    test = statistics.mean_interval(transferred.test - searched.test)
    return (
        f"{where} gives training loss {_mean(transferred)} instead of {_mean(searched)} at its own"
        f" best ({rates[1]}): {_difference(loss)}; in test loss {_difference(test)}"
    )


def growth(family: Family, curves: Curves) -> str:
    """Whether the largest size trains better than the smallest, each at its own best rate."""
    small, large = (curves.at_best(place, of=place) for place in (0, -1))
    found = statistics.mean_interval(large.train - small.train)
    shown = "trains worse" if found.low > 0 else "trains better"
    if found.low <= 0 <= found.high:
        shown = "is not shown to train better or worse"
    return (
        f"{curves.scheme}: each at its own best rate, {family.axis} {curves.sizes[-1]} {shown} than"
        f" {curves.sizes[0]}: training loss {_mean(large)} and {_mean(small)}"
    )


def _least_drift(first: Curves, other: Curves) -> str:
    if first.at_edge.any() or other.at_edge.any():
        return ""
    found = statistics.mean_interval(np.abs(first.slopes) - np.abs(other.slopes))
    if found.low > 0:
        less, more, by = other, first, found
    elif found.high < 0:
        less, more, by = first, other, Interval(*(-found[place] for place in (0, 2, 1)))
    else:
        return f"neither {first.scheme} nor {other.scheme} is shown to drift less"
    return f"the best rate drifts less in {less.scheme} than in {more.scheme}: by {_exponent(by)}"


def _lowest_loss(family: Family, first: Curves, other: Curves) -> str:
    """Which of two parametrizations trains the largest size best, each at its own best rate."""
    size = f"{family.axis} {first.sizes[-1]}"
    losses = {curves.scheme: curves.at_best(-1, of=-1) for curves in (first, other)}
    found = statistics.mean_interval(losses[first.scheme].train - losses[other.scheme].train)
    if found.low <= 0 <= found.high:
        return (
            f"at {size} and its own best rate, neither {first.scheme} nor {other.scheme} is shown"
            " to train better"
        )
    less, more = sorted(losses, key=lambda scheme: losses[scheme].train.mean())
    return (
        f"at {size} and its own best rate, {less} trains better than {more}: training loss"
        f" {_mean(losses[less])} and {_mean(losses[more])}"
    )


def _exponent(slope: Interval) -> str:
    return f"{slope.value:.2f} ({slope.low:.2f} to {slope.high:.2f})"


def _difference(found: Interval) -> str:
    words = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    return f"{words}, no difference shown" if found.low <= 0 <= found.high else words


def _mean(losses: Losses) -> str:
    return f"{losses.train.mean():.3f}"


def _rate(rate: float) -> str:
    return f"{rate:.2g}"


def table(family: Family) -> Table:
    """A row for each parametrization and size: its best rate, and losses there and elsewhere."""
    rows = []
    for curves in family.curves:
        base = curves.means[0].argmin()
        for place, size in enumerate(curves.sizes):
            best, chosen = curves.best[place], curves.means[place].argmin()
            losses = curves.losses[place, chosen]
            rows.append(
                {
                    "scheme": curves.scheme,
                    family.axis: int(size),
                    "best_rate": best.value,
                    "best_rate_low": best.low,
                    "best_rate_high": best.high,
                    "at_edge": bool(curves.at_edge[place]),
                    "tried_rate": float(curves.rates[chosen]),
                    "loss": float(losses.mean()),
                    "loss_stddev": float(losses.std(ddof=1)) if len(losses) > 1 else np.nan,
                    "test_loss": float(curves.test_losses[place, chosen].mean()),
                    "transferred_rate": float(curves.rates[base]),
                    "transferred_loss": float(curves.losses[place, base].mean()),
                    "transferred_test_loss": float(curves.test_losses[place, base].mean()),
                }
            )
    return rows


def lines(family: Family) -> list[str]:
    """All about a family, for a terminal."""
    head = [family.axis, "best rate", "95% interval", "loss", "test loss", "at base's rate"]
    shown = textwrap.wrap(f"{title(family)}:", _WIDTH)
    for curves in family.curves:
        rows = [row for row in table(family) if row["scheme"] == curves.scheme]
        texts = [head, *(_texts(family.axis, row) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        shown += ["", curves.scheme]
        shown += [
            "  ".join(f"{text:>{width}}" for text, width in zip(line, widths, strict=True))
            for line in texts
        ]
    shown.append("")
    for sentence in conclusions(family):
        shown += textwrap.wrap(f"- {sentence}", _WIDTH, subsequent_indent="  ")
    return shown


def _texts(axis: str, row: dict[str, Any]) -> list[str]:
    within = f"{_rate(row['best_rate_low'])} to {_rate(row['best_rate_high'])}"
    return [
        str(row[axis]),
        _rate(row["best_rate"]),
        "edge of those tried" if row["at_edge"] else within,
        f"{row['loss']:.3f}",
        f"{row['test_loss']:.3f}",
        f"{row['transferred_loss']:.3f}",
    ]


def record(family: Family) -> dict[str, Any]:
    """The content of `transfer.json`."""
    return {
        "title": title(family),
        "loss": family.loss,
        "axis": family.axis,
        "seeds": family.seeds,
        "fields": family.fields,
        "schemes": [
            {
                "scheme": curves.scheme,
                "sizes": curves.sizes.tolist(),
                "learning_rates": curves.rates.tolist(),
                "losses": curves.losses.tolist(),
                "test_losses": curves.test_losses.tolist(),
                "drifts": curves.slopes.tolist(),
            }
            for curves in family.curves
        ],
        "table": table(family),
        "conclusions": conclusions(family),
    }
