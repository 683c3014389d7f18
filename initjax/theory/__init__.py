"""The theory of signal propagation: numbers in, numbers out."""

from initjax.theory.attention import (
    AttentionMap,
    AttentionWeights,
    TokenSignals,
    attention_map,
    attention_threshold,
    attention_weights,
    transformer_map,
)
from initjax.theory.criticality import CriticalPoint, critical_line, critical_points
from initjax.theory.finite_width import (
    JacobianSpectrum,
    LogNorm,
    dead_fraction,
    jacobian_spectrum,
    log_norm_moments,
)
from initjax.theory.meanfield import (
    DepthScales,
    chi,
    chi_parallel,
    correlation_map,
    depth_scales,
    relu_correlation_map,
    variance_map,
)
from initjax.theory.moments import Moments, gain, moments, torch_gain
from initjax.theory.phase_diagram import phase_diagram

__all__ = [
    "AttentionMap",
    "AttentionWeights",
    "CriticalPoint",
    "DepthScales",
    "JacobianSpectrum",
    "LogNorm",
    "Moments",
    "TokenSignals",
    "attention_map",
    "attention_threshold",
    "attention_weights",
    "chi",
    "chi_parallel",
    "correlation_map",
    "critical_line",
    "critical_points",
    "dead_fraction",
    "depth_scales",
    "gain",
    "jacobian_spectrum",
    "log_norm_moments",
    "moments",
    "phase_diagram",
    "relu_correlation_map",
    "torch_gain",
    "transformer_map",
    "variance_map",
]
