"""Why a layer's input is not a function of one other layer's output."""

from typing import Literal

Reason = Literal[
    "batch",  # it is the batch itself
    "data",  # the batch enters beside a layer
    "parameter",  # it is made of parameters alone
    "parametric",  # a parameter enters the activation
    "array",  # an array of constants enters
    "layers",  # layers meet
    "units",  # units of one layer meet
    "sum",  # of layers
    "product",  # of layers
    "attention",  # or another matrix product of activations
    "normalization",
    "centering",
    "mask",  # as in dropout
    "pooling",
    "reduction",  # a sum or mean
    "join",  # of layers, or padding
    "choice",  # by data
    "branch",  # a choice of branches
    "long",  # too long an expression
    "loop",
    "shared loop",  # a loop that shares its weights
    "all turns",  # of a loop
    "embedding",  # its input is numbers of rows
]
"""What is none of these is the name of a JAX primitive."""
