"""Initializers with a special structure, each from a paper or another library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._drawing import checked_draw, draw_by_law
from initjax._laws import Law, normal_law, uniform_law
from initjax._values import (
    Axes,
    called_as,
    checked_choice,
    checked_dtype,
    checked_initializer,
    checked_integer,
    checked_number,
    checked_positive,
    initializer,
    resharded,
    settle,
)
from initjax.fans import checked_fans, fans_arguments, fans_of
from initjax.sampling import normal
from initjax.scaling import DISTRIBUTIONS, Gain, scaled, variance_scaling

if TYPE_CHECKING:
    import jax


@initializer
class sparse:
    r"""Draws :math:`N(0, stddev^2)` for `connections` inputs of each output, and zeros elsewhere.

    The kernel is `(..., in, out)`: in each matrix, each output gets exactly this many random
    inputs. (`torch.nn.init.sparse_` thins the columns of its (out, in) kernel, which are the
    *outputs of an input*; to match it use `axis=-1` and `connections = out - ceil(sparsity *
    out)`.)

    Args:
      connections: how many inputs an output has; at most all of them.
      stddev: the standard deviation of the nonzero numbers.
      axis: the axis along which nonzero numbers are counted; -2 counts an output's inputs, -1 an
        input's outputs.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: connections is not an integer >= 0, stddev is not a finite number >= 0,
        axis is neither -1 nor -2; when called, the shape has fewer than two axes, or too few
        numbers along the axis.

    Example:
      >>> import jax
      >>> kernel = sparse(15)(jax.random.key(0), (100, 50))
      >>> set((kernel != 0).sum(axis=0).tolist())
      {15}

    Reference:
      Martens 2010, "Deep learning via Hessian-free optimization", section 5: 15 inputs for each
      unit, https://www.cs.toronto.edu/~jmartens/docs/Deep_HessianFree.pdf
    """

    connections: int = 15
    stddev: float = 1.0
    axis: int = -2
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.axis not in (-1, -2):
            raise ValueError(f"sparse: axis must be -1 or -2, got {self.axis!r}")
        settle(
            self,
            connections=checked_integer("sparse", "connections", self.connections, 0),
            stddev=checked_number("sparse", "stddev", self.stddev, minimum=0),
            axis=int(self.axis),
            dtype=checked_dtype("sparse", self.dtype, inexact=True),
        )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax
        import jax.numpy as jnp

        shape = tuple(shape)
        if len(shape) < 2:
            raise ValueError(f"{self!r} needs a shape of at least two axes, got {shape}")
        dtype, _ = checked_draw(self, key, dtype)
        if 0 in shape:
            return jnp.zeros(shape, dtype, out_sharding=out_sharding)
        if self.connections > shape[self.axis]:
            raise ValueError(
                f"{self!r} needs at least {self.connections} numbers along axis {self.axis}, but"
                f" shape {shape} has {shape[self.axis]}; at most sparse({shape[self.axis]})"
            )
        key_numbers, key_places = jax.random.split(key)
        numbers = called_as(repr(self), normal(self.stddev))(key_numbers, shape, dtype)
        # An independent permutation along the axis for each line.
        line = jax.lax.broadcasted_iota("int32", shape, len(shape) + self.axis)
        places = jax.random.permutation(key_places, line, axis=self.axis, independent=True)
        kernel = jnp.where(places < self.connections, numbers, jnp.zeros((), dtype))
        return resharded(kernel, out_sharding)


@initializer
class siren:
    r"""Draws for a network with sine activations, :math:`\sin(\omega (W x + b))`.

    :math:`U[-\sqrt{6/fan_{in}}/\omega, \sqrt{6/fan_{in}}/\omega)`: after a sine with a wide input
    range, as in the first layer, the next argument has variance one, including omega. (With depth
    it converges to 0.80, the solution of :math:`q = 1 - e^{-2q}`.) In the first layer, whose inputs
    lie in [-1, 1], the bounds are :math:`\pm 1/fan_{in}`. The last, linear layer uses the same
    bounds as the hidden layers. The authors' biases are PyTorch's default, `torch_bias(fan_in)`.

    Args:
      omega: the frequency that multiplies the argument of the sine, above 0.
      first: whether this is the first layer.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.

    Raises:
      TypeError, ValueError: omega is not a finite number above 0, first is not a bool, the others
        as in `variance_scaling`; when called, an axis is outside the shape.

    Example:
      >>> import jax
      >>> kernel = siren()(jax.random.key(0), (600, 500))
      >>> round(float(kernel.std()) * 30 * (600 / 2) ** 0.5, 2)
      1.0

    Reference:
      Sitzmann et al. 2020, "Implicit Neural Representations with Periodic Activation Functions",
      section 3.2, https://arxiv.org/abs/2006.09661, and the authors' code.
    """

    omega: float = 30.0
    first: bool = False
    dtype: Any = None
    _: dataclasses.KW_ONLY
    in_axis: Axes = -2
    out_axis: Axes = -1
    batch_axis: Axes = ()
    fan_in_divisor: float = 1.0
    fan_out_divisor: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.first, bool):
            raise TypeError(f"siren: first must be True or False, got {self.first!r}")
        settle(
            self,
            omega=checked_positive("siren", "omega", self.omega),
            dtype=checked_dtype("siren", self.dtype, inexact=True),
            **checked_fans("siren", **fans_arguments(self)),
        )

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        fan_in = fans_of(self, shape)[0] or 1.0  # an empty shape has no fan_in, and needs none
        limit = 1 / fan_in if self.first else (6 / fan_in) ** 0.5 / self.omega
        return uniform_law(-limit, limit, dtype)


@initializer
class random_walk:
    r"""Draws from :math:`N(0, g^2/fan_{in})`, with `g` chosen so that the *log* norm doesn't drift.

    Even if the variance is preserved on average, the typical log norm falls by :math:`1/(2N)` per
    layer of width `N` in a linear network, which matters over hundreds of layers. For layers of
    equal width :math:`g = \exp(-E[\log(\chi^2_K/N)]/2)` compensates exactly, where `K`, the number
    of active inputs, is `N` for 'linear' and binomial for 'relu' (given that at least one is
    active). The paper's :math:`e^{1/(2N)}` and :math:`\sqrt{2} e^{1.2/(\max(N, 6) - 2.4)}` are fits
    to it, within 0.5% for `N` >= 10.

    Args:
      activation: 'relu' or 'linear'.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.

    Raises:
      TypeError, ValueError: activation is neither, the others as in `variance_scaling`; when
        called, an axis is outside the shape.

    Example:
      >>> import jax
      >>> kernel = random_walk("linear")(jax.random.key(0), (50, 100_000))
      >>> round(float(kernel.std()) * 50**0.5, 2)  # not 1.0
      1.01

    Reference:
      Sussillo and Abbott 2014, "Random Walk Initialization for Training Very Deep Feedforward
      Networks", https://arxiv.org/abs/1412.6558; the expectation is evaluated here, not fitted.
    """

    activation: str = "relu"
    dtype: Any = None
    _: dataclasses.KW_ONLY
    in_axis: Axes = -2
    out_axis: Axes = -1
    batch_axis: Axes = ()
    fan_in_divisor: float = 1.0
    fan_out_divisor: float = 1.0

    def __post_init__(self) -> None:
        checked_choice("random_walk", "activation", self.activation, ("relu", "linear"))
        settle(
            self,
            dtype=checked_dtype("random_walk", self.dtype, inexact=True),
            **checked_fans("random_walk", **fans_arguments(self)),
        )

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        fan_in = fans_of(self, shape)[0] or 1.0
        return normal_law(_random_walk_gain(fan_in, self.activation) / fan_in**0.5, dtype)


def _random_walk_gain(width: float, activation: str) -> float:
    import scipy.special

    active, weight = np.array([width]), np.ones(1)
    if activation == "relu":
        active = np.arange(1, int(width) + 1)
        weight = np.exp(
            scipy.special.gammaln(width + 1)
            - scipy.special.gammaln(active + 1)
            - scipy.special.gammaln(width - active + 1)
            - width * np.log(2)
        )
    logs = scipy.special.digamma(active / 2) + np.log(2 / width)  # E[log(chi²/width)]
    return float(np.exp(-(weight * logs).sum() / weight.sum() / 2))


@initializer
class mup_output:
    r"""Draws the output layer of a muP network: variance :math:`scale \cdot base / fan_{in}^2`.

    At fan_in = `base_fan_in` it equals `variance_scaling(scale, "fan_in", distribution)`. For wider
    networks the standard deviation falls as 1/fan_in instead of 1/√fan_in, so that hyperparameters
    tuned on a narrow network suit a wide one. In muP hidden layers have variance 1/fan_in
    (`lecun_normal`), and input layers, biases and norms don't depend on the width, as usual; with
    Adam, the learning rates of hidden and output kernels fall as 1/fan_in (optax.multi_transform).
    The authors also suggest zeros for this layer.

    Args:
      base_fan_in: the fan_in of the tuned network, above 0.
      scale: the variance times fan_in at that fan_in.
      distribution: 'truncated_normal', 'normal' or 'uniform', as in `variance_scaling`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.
      gain: as in `variance_scaling`; folded into `scale`.

    Raises:
      TypeError, ValueError: base_fan_in is not a finite number above 0, the others as in
        `variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = mup_output(100)(jax.random.key(0), (400, 1000))
      >>> round(float(kernel.std()) * 400 / 100**0.5, 2)
      1.0

    Reference:
      Yang et al. 2022, "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot
      Hyperparameter Transfer", table 3, https://arxiv.org/abs/2203.03466
    """

    base_fan_in: float
    scale: float = 1.0
    distribution: str = "truncated_normal"
    in_axis: Axes = -2
    out_axis: Axes = -1
    dtype: Any = None
    _: dataclasses.KW_ONLY
    batch_axis: Axes = ()
    fan_in_divisor: float = 1.0
    fan_out_divisor: float = 1.0
    gain: dataclasses.InitVar[Gain | None] = None

    def __post_init__(self, gain: Gain | None) -> None:
        checked_choice("mup_output", "distribution", self.distribution, DISTRIBUTIONS)
        settle(
            self,
            base_fan_in=checked_positive("mup_output", "base_fan_in", self.base_fan_in),
            scale=scaled("mup_output", self.scale, gain),
            dtype=checked_dtype("mup_output", self.dtype, inexact=True),
            **checked_fans("mup_output", **fans_arguments(self)),
        )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        return self._core(shape)(key, shape, dtype, out_sharding)

    def _core(self, shape: Sequence[int]) -> variance_scaling:
        """The initializer for this shape, whose scale falls with fan_in."""
        fan_in = fans_of(self, shape)[0] or 1.0  # an empty shape has no fan_in, and needs none
        scale = self.scale * (self.base_fan_in / fan_in)
        fans = fans_arguments(self)
        core = variance_scaling(scale, "fan_in", self.distribution, dtype=self.dtype, **fans)
        return called_as(repr(self), core)

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        return self._core(shape)._law(shape, dtype)


@initializer
class icnr:
    """Draws a kernel whose sub-pixel upsampling starts as nearest-neighbor upsampling.

    The `factor`² output features that form one upsampled pixel get equal weights, so there is no
    checkerboard pattern. `initializer` draws the smaller kernel, with out / factor² features. A
    bias must be zeros.

    Args:
      initializer: draws the kernel of (*spatial, in, out / factor²).
      factor: the upsampling factor of each of two spatial axes.
      layout: 'depth_to_space', where the features of a pixel are strided, as in TensorFlow; or
        'pixel_shuffle', where they are adjacent, as in PyTorch.

    Raises:
      TypeError, ValueError: initializer isn't an initializer (or lacks its parentheses), factor is
        not an integer above 0, layout is neither; when called, the last axis is not a multiple of
        factor².

    Example:
      >>> import jax
      >>> from initjax import normal
      >>> kernel = icnr(normal(), 2)(jax.random.key(0), (3, 3, 8, 4))
      >>> bool((kernel == kernel[..., :1]).all())
      True

    Reference:
      Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution",
      https://arxiv.org/abs/1707.02937
    """

    initializer: Any
    factor: int = 2
    layout: str = "depth_to_space"

    def __post_init__(self) -> None:
        checked_initializer("icnr", "initializer", self.initializer)
        settle(self, factor=checked_integer("icnr", "factor", self.factor, 1))
        checked_choice("icnr", "layout", self.layout, ("depth_to_space", "pixel_shuffle"))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        shape = tuple(shape)
        neighbors = self.factor**2
        if not shape or shape[-1] % neighbors:
            raise ValueError(
                f"{self!r} needs a shape whose last axis is a multiple of {neighbors}, got {shape}"
            )
        *others, outputs = shape
        kernel = self.initializer(key, (*others, outputs // neighbors), dtype)
        if self.layout == "depth_to_space":
            kernel = jnp.tile(kernel, (*[1] * len(others), neighbors))
        else:
            kernel = jnp.repeat(kernel, neighbors, axis=-1)
        return resharded(kernel, out_sharding)
