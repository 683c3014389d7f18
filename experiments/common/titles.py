"""What a report is about, in words: titles, headings, and what its settings differ in."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.common import comparison, description
from experiments.common.config import Config

if TYPE_CHECKING:
    from experiments.common import depth_sections

_BEST = "each at its best learning rate"
_NAMED = 3  # initializers in a title; more are counted

# The fields of a setting in the order of titles, and the plural for several values.
_PLURALS = {
    "dataset": "datasets",
    "network": "networks",
    "activation": "activations",
    "dtype": "dtypes",
    "optimizer": "optimizers",
    "learning rate": "learning rates",
    "batch size": "batch sizes",
    "epochs": "numbers of epochs",
    "output init": "output initializers",
    "bias init": "bias initializers",
}


def title(
    found: Sequence[comparison.Setting], depths: "depth_sections.Depths | None" = None
) -> str:
    """The title of a report: what was compared on what, and how often."""
    parts = [_of_depths(depths)] if depths and depths.runs else []
    return "; ".join(parts + ([_of_settings(found)] if found else []))


def _of_depths(depths: "depth_sections.Depths") -> str:
    fields = [part.fields for part in (*depths.diagrams, *depths.grids)]
    names = {
        name: list(dict.fromkeys(str(field[name]) for field in fields))
        for name in ("dataset", "activation", "width")
    }
    shallow, deep = depths.extent()
    width = f"width {' and '.join(names['width'])}"
    return (
        f"{depths.runs:,} networks of {shallow} to {deep} layers on {', '.join(names['dataset'])}:"
        f" {', '.join(names['activation'])}, {width}"
    )


def _of_settings(found: Sequence[comparison.Setting]) -> str:
    inits = list(dict.fromkeys(init for setting in found for init in setting.inits))
    runs = np.concatenate([np.isfinite(setting.trained).sum(axis=1) for setting in found])
    fewest, most = int(runs.min()), int(runs.max())
    listed = f"{', '.join(inits[:-1])} and {inits[-1]}" if len(inits) > 1 else inits[0]
    names = listed if len(inits) <= _NAMED else f"{len(inits)} initializers"
    columns = {name: [_texts(setting)[name] for setting in found] for name in _PLURALS}
    common = {name: texts[0] for name, texts in columns.items() if len(set(texts)) == 1}
    several = [
        f"{len(set(texts) - {_BEST})} {_PLURALS[name]}"
        for name, texts in columns.items()
        if name not in common
    ]
    data = f" on {common.pop('dataset')}" if "dataset" in common else ""
    usual = {
        "dtype": Config.dtype,
        "output init": f"output {Config.output_init}",
        "bias init": f"bias {Config.bias_init}",
    }
    shown = {name: text for name, text in common.items() if text and name != "epochs"}
    how = [text for name, text in shown.items() if text != usual.get(name)]
    how.append(f"{fewest} to " * (fewest < most) + description.count(most, "seed"))
    how += [common["epochs"]] if "epochs" in common else []
    where = f", in {len(found)} settings ({', '.join(several)})" if several else ""
    return f"{names}{data}{where}: {', '.join(how)}"


def differences(found: Sequence[comparison.Setting]) -> list[dict[str, str]]:
    """For each setting, its fields that are not the same in all of them, as text by name."""
    texts = [_texts(setting) for setting in found]
    varying = [name for name in _PLURALS if len({text[name] for text in texts}) > 1]
    return [{name: text[name] for name in varying} for text in texts]


def _texts(setting: comparison.Setting) -> dict[str, str]:
    """The fields of a setting, each as a phrase that is understood on its own."""
    fields: dict[str, Any] = setting.fields
    rate = fields["learning_rate"]
    common = {
        "dtype": fields["dtype"],
        "optimizer": fields["optimizer"],
        "learning rate": _BEST if rate is None else f"learning rate {rate:g}",
        "batch size": f"batch {fields['batch_size']}",
        "epochs": setting.length,
    }
    if setting.own:
        if rate is not None and math.isnan(rate):
            common["learning rate"] = ""
        no = dict.fromkeys(_PLURALS, "")
        return {**no, "dataset": fields["dataset"], "network": fields["model"], **common}
    return {
        "dataset": fields["dataset"],
        "network": description.hidden(fields),
        "activation": fields["activation"],
        **common,
        "output init": f"output {fields['output_init']}",
        "bias init": f"bias {fields['bias_init']}",
    }
