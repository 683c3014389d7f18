"""What the leaves of a tree of parameters look drawn from, and which of them changed."""

from initjax.leaves.comparison import ComparedLeaf, Comparison, compare_leaves
from initjax.leaves.identification import Identification, IdentifiedLeaf, identify

__all__ = [
    "ComparedLeaf",
    "Comparison",
    "Identification",
    "IdentifiedLeaf",
    "compare_leaves",
    "identify",
]
