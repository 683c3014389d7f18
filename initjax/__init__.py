"""initjax: weight initialization in JAX, as pure functions `init(key, shape, dtype)`.

`zeros` and `ones` are initializers; the other names are factories that make one. An initializer is
a value: it can be hashed, compared and pickled, and its `repr` is a specification that `parse`
reads. `audit` finds problems in a model's initialization, and `fix` repairs them. `identify` says
what parameters look drawn from. `recommend` says which initializer a network needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

from initjax._keys import named_key
from initjax._values import Initializer
from initjax.biases import class_frequency_bias, forget_gate_bias, prior_bias
from initjax.constants import constant, dirac, hadamard_identity, identity, ones, stft, zeros
from initjax.fans import (
    compute_fans,
    conv_fans,
    conv_transpose_fans,
    einsum_fans,
    embedding_fans,
    packed_fans,
    stacked_fans,
)
from initjax.kan import kan_spline
from initjax.low_rank import LowRank, lora_ga, lora_scale, olora, pissa
from initjax.orthogonal import delta_orthogonal, orthogonal, scaled_orthogonal
from initjax.pytorch import torch_bias, torch_kaiming_normal, torch_kaiming_uniform
from initjax.recipes import (
    deepnorm,
    deepnorm_constants,
    fixup,
    mimetic,
    residual_scaling,
    t_fixup,
)
from initjax.sampling import (
    bounded_normal,
    in_blocks,
    normal,
    random_normal,
    random_truncated_normal,
    random_uniform,
    truncated_normal,
    uniform,
)
from initjax.scaling import (
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)
from initjax.specs import NAMES, get, parse
from initjax.state_space import hippo, inverse_softplus, log_uniform, logarithm, s4d
from initjax.structured import (
    icnr,
    mup_output,
    random_walk,
    siren,
    sparse,
)
from initjax.theory.moments import gain, torch_gain
from initjax.transformers import (
    depth_indexed,
    layer_scale,
    small_init,
    spectral,
    unit_norm,
    wang_init,
)
from initjax.trees import initialize, rescale

if TYPE_CHECKING:
    from initjax.advice import Choice, Evidence, Measured, Prediction, Recommendation, recommend
    from initjax.auditing import (
        Attention,
        Change,
        Finding,
        Layer,
        Network,
        Parameter,
        Repair,
        Report,
        audit,
        auditor,
        fix,
    )
    from initjax.coordinates import Coordinate, CoordinateCheck, Fault, Slope, coordinate_check
    from initjax.leaves import (
        ComparedLeaf,
        Comparison,
        Identification,
        IdentifiedLeaf,
        compare_leaves,
        identify,
    )
    from initjax.parametrization import Multiplier, Plan, PlannedLeaf, parametrize

__all__ = [
    "NAMES",
    "Attention",
    "Change",
    "Choice",
    "ComparedLeaf",
    "Comparison",
    "Coordinate",
    "CoordinateCheck",
    "Evidence",
    "Fault",
    "Finding",
    "Identification",
    "IdentifiedLeaf",
    "Initializer",
    "Layer",
    "LowRank",
    "Measured",
    "Multiplier",
    "Network",
    "Parameter",
    "Plan",
    "PlannedLeaf",
    "Prediction",
    "Recommendation",
    "Repair",
    "Report",
    "Slope",
    "audit",
    "auditor",
    "bounded_normal",
    "class_frequency_bias",
    "compare_leaves",
    "compute_fans",
    "constant",
    "conv_fans",
    "conv_transpose_fans",
    "coordinate_check",
    "deepnorm",
    "deepnorm_constants",
    "delta_orthogonal",
    "depth_indexed",
    "dirac",
    "einsum_fans",
    "embedding_fans",
    "fix",
    "fixup",
    "forget_gate_bias",
    "gain",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "hadamard_identity",
    "he_normal",
    "he_uniform",
    "hippo",
    "icnr",
    "identify",
    "identity",
    "in_blocks",
    "initialize",
    "inverse_softplus",
    "kaiming_normal",
    "kaiming_uniform",
    "kan_spline",
    "layer_scale",
    "lecun_normal",
    "lecun_uniform",
    "log_uniform",
    "logarithm",
    "lora_ga",
    "lora_scale",
    "mimetic",
    "mup_output",
    "named_key",
    "normal",
    "olora",
    "ones",
    "orthogonal",
    "packed_fans",
    "parametrize",
    "parse",
    "pissa",
    "prior_bias",
    "random_normal",
    "random_truncated_normal",
    "random_uniform",
    "random_walk",
    "recommend",
    "rescale",
    "residual_scaling",
    "s4d",
    "scaled_orthogonal",
    "siren",
    "small_init",
    "sparse",
    "spectral",
    "stacked_fans",
    "stft",
    "t_fixup",
    "torch_bias",
    "torch_gain",
    "torch_kaiming_normal",
    "torch_kaiming_uniform",
    "truncated_normal",
    "uniform",
    "unit_norm",
    "variance_scaling",
    "wang_init",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

__version__ = "0.1.0"

_ADVICE = ("Choice", "Evidence", "Measured", "Prediction", "Recommendation", "recommend")
_AUDITING = (
    "Attention",
    "Change",
    "Finding",
    "Layer",
    "Network",
    "Parameter",
    "Repair",
    "Report",
    "audit",
    "auditor",
    "fix",
)
_COORDINATES = ("Coordinate", "CoordinateCheck", "Fault", "Slope", "coordinate_check")
_LEAVES = (
    "ComparedLeaf",
    "Comparison",
    "Identification",
    "IdentifiedLeaf",
    "compare_leaves",
    "identify",
)
_PARAMETRIZATION = ("Multiplier", "Plan", "PlannedLeaf", "parametrize")
_LATER = {
    **dict.fromkeys(_ADVICE, "initjax.advice"),
    **dict.fromkeys(_AUDITING, "initjax.auditing"),
    **dict.fromkeys(_COORDINATES, "initjax.coordinates"),
    **dict.fromkeys(_LEAVES, "initjax.leaves"),
    **dict.fromkeys(_PARAMETRIZATION, "initjax.parametrization"),
}


def __getattr__(name: str) -> Any:
    """Imports at the first use what is as large as all the rest: the audit, its kin, and advice."""
    if name in _LATER:
        value = getattr(importlib.import_module(_LATER[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'initjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
