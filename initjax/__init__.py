"""initjax: weight initialization in JAX, as pure functions `init(key, shape, dtype)`.

`zeros` and `ones` are initializers; every other name makes one. An initializer is a value: it can
be hashed, compared and pickled, and its `repr` is a specification that `parse` reads.
"""

from initjax._values import Initializer
from initjax.constants import constant, dirac, identity, ones, zeros
from initjax.fans import (
    compute_fans,
    conv_fans,
    conv_transpose_fans,
    einsum_fans,
    embedding_fans,
    packed_fans,
    stacked_fans,
)
from initjax.orthogonal import delta_orthogonal, orthogonal, scaled_orthogonal
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
from initjax.specs import NAMES, parse
from initjax.structured import (
    icnr,
    random_walk,
    siren,
    sparse,
    torch_bias,
    torch_kaiming_normal,
    torch_kaiming_uniform,
)
from initjax.theory.moments import gain, torch_gain
from initjax.trees import initialize, named_key

__all__ = [
    "NAMES",
    "Initializer",
    "bounded_normal",
    "compute_fans",
    "constant",
    "conv_fans",
    "conv_transpose_fans",
    "delta_orthogonal",
    "dirac",
    "einsum_fans",
    "embedding_fans",
    "gain",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "icnr",
    "identity",
    "in_blocks",
    "initialize",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "named_key",
    "normal",
    "ones",
    "orthogonal",
    "packed_fans",
    "parse",
    "random_normal",
    "random_truncated_normal",
    "random_uniform",
    "random_walk",
    "scaled_orthogonal",
    "siren",
    "sparse",
    "stacked_fans",
    "torch_bias",
    "torch_gain",
    "torch_kaiming_normal",
    "torch_kaiming_uniform",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
