"""Curves of layers are drawn from the audits of a run, whatever was measured."""

import math

import PIL.Image
import pytest

from experiments.common import files, layer_curves


def audit(step, layers, **changes):
    layer = {"rms": 1 / (1 + step), "gradient": 1e-3, "correlation": 0.5, "dead": None}
    layer |= {"saturated": 0.1, **changes}
    return {
        "step": step,
        "verdict": "ok",
        "findings": [],
        "layers": [{"name": f"hidden/{row}/kernel", **layer} for row in range(layers)],
    }


@pytest.mark.parametrize(
    ("steps", "layers", "changes"),
    [
        (range(0, 500, 100), 3, {}),
        ([0], 1, {}),
        (range(80), 30, {"dead": 0.5}),
        ([0, 1], 2, {"rms": math.nan, "gradient": None, "correlation": math.inf}),
        ([0, 1], 2, {"rms": 0.0, "gradient": 1e-30}),
    ],
    ids=["few", "one step", "many layers", "not finite", "zero"],
)
def test_every_kind_of_run_gets_curves(steps, layers, changes, tmp_path):
    files.append_lines(
        tmp_path / "audits.jsonl", (audit(step, layers, **changes) for step in steps)
    )
    layer_curves.draw(tmp_path, "a title with $x_{$", "subtitle")
    with PIL.Image.open(tmp_path / "audits.png") as picture:
        assert picture.size == (1500, 1080)
    audits = "1 audit; step 0: ok" if len(steps) == 1 else f"{len(steps)} audits; step 0: ok; step"
    assert layer_curves.summary(tmp_path).startswith(audits)
