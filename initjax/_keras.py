"""The initializers of Keras, by their names and configurations, in our words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from initjax._values import nearest_first

# Our names for Keras's classes.
_CLASSES = {
    "Zeros": "zeros",
    "Ones": "ones",
    "Constant": "constant",
    "Identity": "identity",
    "STFT": "stft",
    "RandomNormal": "random_normal",
    "RandomUniform": "random_uniform",
    "TruncatedNormal": "random_truncated_normal",
    "Orthogonal": "orthogonal",
    "VarianceScaling": "variance_scaling",
    **{
        f"{word}{kind}": f"{word.lower()}_{kind.lower()}"
        for word in ("Glorot", "He", "Lecun")
        for kind in ("Normal", "Uniform")
    },
}
# Its other names for them: those of the classes of Keras 3.0 to 3.6, and those in lower case.
_ALIASES = {
    "OrthogonalInitializer": "Orthogonal",
    "IdentityInitializer": "Identity",
    "STFTInitializer": "STFT",
    "zero": "Zeros",
    "one": "Ones",
    "normal": "RandomNormal",
    "uniform": "RandomUniform",
    **{re.sub("([a-z])([A-Z])", r"\1_\2", name).lower(): name for name in _CLASSES},
}
# Keras's parameters with other names here, and its defaults where we have none.
_PARAMETERS = {"input_axes": "in_axis", "output_axes": "out_axis"}
_DEFAULTS = {
    "Constant": {"value": 0.0},
    "VarianceScaling": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
}
_DISTRIBUTIONS = {"normal": "truncated_normal", "untruncated_normal": "normal"}


def from_keras(wanted: Any, config: Any) -> tuple[str, dict[str, Any]]:
    """Our name for an initializer of Keras, and our arguments.

    Args:
      wanted: the name of its class, or another that Keras has for it.
      config: its configuration; None if it has none.

    Raises:
      ValueError: there is no such class, or config is no configuration.
    """
    word = wanted if isinstance(wanted, str) else str(wanted)
    class_name = _ALIASES.get(word, word)
    if class_name not in _CLASSES:
        raise ValueError(
            f"get: class_name must be one of {', '.join(nearest_first(word, _CLASSES))}; got"
            f" {wanted!r}"
        )
    if not isinstance(config, Mapping | None):
        raise ValueError(f"get: {wanted}: config must be a dictionary, got {config!r}")
    name = _CLASSES[class_name]
    if name in ("zeros", "ones"):
        return name, {}
    names: dict[Any, str] = (
        {**_PARAMETERS, "gain": "scale"} if name == "orthogonal" else _PARAMETERS
    )
    config = {**_DEFAULTS.get(class_name, {}), **(config or {})}
    arguments: dict[str, Any] = {
        names.get(parameter, str(parameter)): value
        for parameter, value in config.items()
        if parameter != "seed" and not (parameter in _PARAMETERS and value is None)
    }
    if "distribution" in arguments:
        distribution = arguments["distribution"]
        if isinstance(distribution, str):
            arguments["distribution"] = _DISTRIBUTIONS.get(distribution, distribution)
    value = arguments.get("value")
    if isinstance(value, Mapping):  # a serialized array
        value = value.get("config")
        if not isinstance(value, Mapping) or "value" not in value:
            raise ValueError(f"get: {wanted}: value must be numbers, got {arguments['value']!r}")
        arguments["value"] = value["value"]
    return name, arguments


def is_keras_class(name: str) -> bool:
    """Whether this is the name of a class of Keras, of any version."""
    return name[:1].isupper() and _ALIASES.get(name, name) in _CLASSES
