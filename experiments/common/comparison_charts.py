"""The charts of differences between initializers: against the best one, and of every pair."""

from typing import Any

import altair as alt

from experiments.common import chart_style, comparison, formatting, verdicts

_WORDS = {
    ("ahead", True): "ahead",
    ("ahead", False): "behind",
    "equivalent": "equivalent",
    "not settled": "not settled",
    "unknown": "no difference found",
}
_GAP = 6.0  # factor: much larger differences than the others don't stretch the axis
_CELL = 72  # pixels: the width of a number in the matrix
_BELOW = 160  # pixels: longer names below it are cut


def forest(setting: comparison.Setting, endpoint: str) -> dict[str, Any] | None:
    """The difference of every initializer from the best one, with its interval.

    Args:
      setting: from `comparison.settings`.
      endpoint: a name of an endpoint.

    Returns:
      A Vega-Lite specification; None if there is nothing to compare.
    """
    if endpoint not in setting.endpoints:
        return None
    point = setting.endpoints[endpoint]
    best = comparison.ranking(setting, endpoint)[0]
    rows = []
    for pair in comparison.pairs(setting, endpoint):
        if best not in pair[:2]:
            continue
        other, sign = (pair.second, -1) if best == pair.first else (pair.first, 1)
        kind, first, _ = verdicts.finding(pair, point)
        mean, *bounds = (sign * point.scale * value for value in pair.comparison.difference)
        rows.append(
            {
                "init": other,
                "mean": mean,
                "low": min(bounds),
                "high": max(bounds),
                "settled": kind in ("ahead", "equivalent"),
                "verdict": _WORDS[kind, first == other] if kind == "ahead" else _WORDS[kind],
                "p": formatting.p(pair.p),
                "signs": formatting.p(pair.comparison.p_sign_flip),
                "seeds": pair.comparison.n,
            }
        )
    if not rows:
        return None
    margin = (point.margin or 0) * point.scale
    extents = [max(abs(row["low"]), abs(row["high"]), 1e-12) for row in rows]
    limit = chart_style.reach(extents, _GAP)
    room = 0.08 * max(limit, margin)
    edges = {
        -1: min([-1.3 * margin, *(max(row["low"], -limit) for row in rows)]) - room,
        1: max([1.3 * margin, *(min(row["high"], limit) for row in rows)]) + room,
    }
    inside, labels, beyond = [], [], []
    for row in rows:
        leaves = {-1: row["low"] < edges[-1], 1: row["high"] > edges[1]}
        if edges[-1] <= row["mean"] <= edges[1]:
            low, high = max(row["low"], edges[-1]), min(row["high"], edges[1])
            inside.append({**row, "low": low, "high": high})
        else:
            side = -1 if row["mean"] < 0 else 1
            text = formatting.number(row["mean"], sign="+", digits=point.digits)
            labels.append({**row, "at": edges[side], "text": text, "side": side})
            leaves = {side: True}
        beyond += [
            {**row, "at": edges[side], "beyond": side} for side, left in leaves.items() if left
        ]
    order = [init for init in setting.inits if init != best]
    scale = alt.Scale(domain=list(edges.values()), nice=False)
    unit = point.unit or "loss"
    axis = alt.Axis(format="+.3~g", tickCount=5, labelOverlap=True)
    x = {"title": f"difference, {unit}", "scale": scale, "axis": axis}
    height = chart_style.row_height(setting, 40)
    y = alt.Y("init:N", sort=order, title=None, axis=chart_style.names(setting))
    tooltip = [
        alt.Tooltip("init:N", title="initializer"),
        alt.Tooltip("mean:Q", title=f"difference, {unit}", format="+.4~g"),
        alt.Tooltip("low:Q", title="95% from", format="+.4~g"),
        alt.Tooltip("high:Q", title="to", format="+.4~g"),
        alt.Tooltip("p:N", title="p (t test, Holm)"),
        alt.Tooltip("signs:N", title="p (sign flips)"),
        "verdict:N",
        "seeds:Q",
    ]
    color = chart_style.color(setting)
    layers: list[Any] = []
    if margin:
        area = alt.Chart(alt.Data(values=[{"low": -margin, "high": margin}]))
        area = area.mark_rect(color=chart_style.INK, opacity=0.08)
        layers.append(area.encode(alt.X("low:Q", **x), alt.X2("high:Q")))
    zero = alt.Chart(alt.Data(values=[{"at": 0}])).mark_rule(
        color=chart_style.INK, strokeWidth=1.5, strokeDash=[5, 3]
    )
    layers.append(zero.encode(alt.X("at:Q", **x)))
    rule = chart_style.base(inside).mark_rule(strokeWidth=2.5)
    layers.append(rule.encode(alt.X("low:Q", **x), alt.X2("high:Q"), y, color, tooltip=tooltip))
    for settled in (True, False):
        dots = chart_style.base([row for row in inside if row["settled"] == settled])
        dots = dots.mark_point(filled=settled, size=130, strokeWidth=2.5, opacity=1)
        shape = chart_style.shape(setting)
        layers.append(dots.encode(alt.X("mean:Q", **x), y, color, shape, tooltip=tooltip))
    at = alt.X("at:Q", **x)
    layers += chart_style.arrows(beyond, True, x=at, y=y, color=color, tooltip=tooltip)
    for side, align in ((-1, "left"), (1, "right")):  # beside its arrow
        text = chart_style.base([row for row in labels if row["side"] == side])
        text = text.mark_text(align=alt.Align(align), dx=-12 * side)
        layers.append(text.encode(at, y, alt.Text("text:N")))
    notes = ["Mean of the paired differences with 95% interval; filled if settled, else hollow"]
    if margin:
        notes.append(f"Shaded: equivalent, within {margin:g} {unit}")
    if beyond:
        notes.append("Arrows: beyond the axis")
    title = f"{point.title[0].upper()}{point.title[1:]}: difference from {best}"
    return chart_style.finish(
        alt.layer(*layers),
        title,
        notes,
        height=height * len(rows),
    )


def matrix(setting: comparison.Setting) -> dict[str, Any] | None:
    """The mean difference in the main endpoint of every two initializers."""
    point, rows = setting.endpoints[setting.main], []
    for pair in comparison.pairs(setting, setting.main):
        found, kind = pair.comparison, verdicts.finding(pair, point)[0]
        for sign, first, second in ((1, pair.first, pair.second), (-1, pair.second, pair.first)):
            value, *bounds = (point.scale * sign * number for number in found.difference)
            alike = verdicts.equivalent(pair)
            mark = "*" * (kind == "ahead") + "≈" * alike + "?" * (kind == "not settled")
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "difference": value,
                    "text": f"{round(value, point.digits) + 0.0:+.{point.digits}f}{mark}",
                    "interval": " to ".join(
                        f"{bound:+.{point.digits + 1}f}" for bound in sorted(bounds)
                    ),
                    "p": formatting.p(pair.p),
                    "sign flips": formatting.p(found.p_sign_flip),
                    "equivalence": formatting.p(pair.p_equivalence),
                    "seeds": found.n,
                }
            )
    if not rows:
        return None
    shown = "indexof(shown, datum.first) >= 0 && indexof(shown, datum.second) >= 0"
    base = alt.Chart(alt.Data(values=rows)).transform_filter(shown)
    # A line each: the rows have the same names in full.
    below = alt.Axis(labelAngle=-35, labelLimit=_BELOW)
    base = base.encode(
        alt.X("second:N", sort=setting.inits, title="minus", axis=below),
        alt.Y("first:N", sort=setting.inits, title=None, axis=chart_style.names(setting)),
        tooltip=[
            "first:N", "second:N",
            alt.Tooltip("difference:Q", format=f"+.{point.digits + 1}f"), "interval:N",
            alt.Tooltip("p:N", title="p (t test, Holm)"),
            alt.Tooltip("sign flips:N", title="p (sign flips)"),
            alt.Tooltip("equivalence:N", title="p (equivalence, Holm)"),
            "seeds:Q",
        ],
    )  # fmt: skip
    # Larger differences have the same color: half a point of accuracy.
    largest = 0.5 if setting.main == "final_acc" else max(abs(row["difference"]) for row in rows)
    scale = alt.Scale(
        scheme="blueorange", domain=[-largest, 0, largest], clamp=True, reverse=point.sign > 0
    )
    cells = base.mark_rect(stroke=chart_style.PAPER).encode(
        alt.Color("difference:Q", scale=scale, legend=None)
    )
    unit = f", {point.unit}" if point.unit else ""
    strong = f"abs(datum.difference) > {0.7 * largest}"
    text = base.mark_text().encode(
        alt.Text("text:N"), color=alt.condition(strong, alt.value("white"), alt.value("black"))
    )
    return chart_style.finish(
        cells + text,
        f"{point.title[0].upper()}{point.title[1:]}: differences of all pairs{unit}",
        ["Row minus column; * ahead or behind, ≈ equivalent, ? not settled"],
        height=chart_style.row_height(setting, 36) * len(setting.inits),
        least_width=_CELL * len(setting.inits) + chart_style.names_width(setting),
    )
