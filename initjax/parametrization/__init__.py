"""Parametrizations: how initialization and learning rates change with the width of a model."""

from initjax.parametrization._leaves import PlannedLeaf
from initjax.parametrization._parametrize import parametrize
from initjax.parametrization._plan import Multiplier, Plan

__all__ = ["Multiplier", "Plan", "PlannedLeaf", "parametrize"]
