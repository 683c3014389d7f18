r"""Initial adapters of LoRA that depend on the kernel they adapt, or on its gradient.

A layer with an adapter computes :math:`x W + s\, x A B`, with a frozen kernel `W` of shape (in,
out), `A` of (in, rank), `B` of (rank, out) and a fixed scale `s`. The functions here split a kernel
into what stays frozen and an adapter, so that the layer's output doesn't change:
:math:`W_{frozen} + s A B = W`. Axes before the last two are batches of kernels, so reshape a kernel
of attention, such as (in, heads, features), to (in, out) first. All arithmetic has at least 32
bits, whatever the device's default precision is.

LoRA's defaults need only the shape, so they are initializers: `torch_kaiming_uniform(5**0.5)`, or
`normal(1 / rank)` in its Gaussian form, for `A`, and `zeros` for `B`. For an embedding, `zeros` for
`A` and `normal(1.0)` for `B`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from initjax._drawing import draw_dtypes
from initjax._values import checked_integer, checked_number, checked_positive

if TYPE_CHECKING:
    import jax


class LowRank(NamedTuple):
    """A kernel as the sum of a frozen part and `scale * lora_a @ lora_b`.

    Args:
      kernel: the frozen part, of shape (..., in, out).
      lora_a: the adapter's first factor, of shape (..., in, rank).
      lora_b: the adapter's second factor, of shape (..., rank, out).
    """

    kernel: jax.Array
    lora_a: jax.Array
    lora_b: jax.Array


def lora_scale(alpha: float, rank: int, *, rank_stabilized: bool = False) -> float:
    r"""The factor of an adapter's output: :math:`\alpha/r`, or rsLoRA's :math:`\alpha/\sqrt{r}`.

    Args:
      alpha: LoRA's alpha.
      rank: the adapter's rank, `r`.
      rank_stabilized: whether to divide by the root of the rank, so that the size of updates
        doesn't depend on the rank.

    Returns:
      The scale.

    Raises:
      TypeError, ValueError: alpha is not a finite number, or rank is not an integer above 0.

    Example:
      >>> lora_scale(16, 64), lora_scale(16, 64, rank_stabilized=True)
      (0.25, 2.0)

    Reference:
      Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1,
      https://arxiv.org/abs/2106.09685; Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for
      Fine-Tuning with LoRA", https://arxiv.org/abs/2312.03732
    """
    alpha = checked_number("lora_scale", "alpha", alpha)
    rank = checked_integer("lora_scale", "rank", rank, 1)
    return alpha / (rank**0.5 if rank_stabilized else rank)


def pissa(kernel: jax.Array, rank: int, scale: float = 1.0) -> LowRank:
    r"""Splits off the kernel's largest singular values and vectors as the adapter (PiSSA).

    With :math:`W = U S V^T`, the adapter is :math:`A = U_r \sqrt{S_r/s}` and
    :math:`B = \sqrt{S_r/s}\, V_r^T`, so :math:`s A B` is the best approximation of `W` of this
    rank.

    Args:
      kernel: of shape (..., in, out).
      rank: the adapter's rank, at most min(in, out).
      scale: the factor `s` of the adapter's output, above 0; see `lora_scale`.

    Returns:
      The frozen kernel and the adapter, in the kernel's dtype.

    Raises:
      TypeError, ValueError: the kernel isn't floating or has fewer than two axes, rank isn't an
        integer in its range, or scale isn't a finite number above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> split = pissa(jnp.diag(jnp.array([3.0, 2.0, 1.0])), rank=1)
      >>> jnp.abs(split.kernel).round(5).tolist()
      [[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]

    Reference:
      Meng, Wang and Zhang 2024, "PiSSA: Principal Singular Values and Singular Vectors Adaptation
      of Large Language Models", https://arxiv.org/abs/2404.02948; the numbers of PEFT's
      `init_lora_weights="pissa"`.
    """
    import jax.numpy as jnp

    wide, rank, scale = _checked("pissa", kernel, rank, scale)
    left, values, right = jnp.linalg.svd(wide, full_matrices=False)
    roots = jnp.sqrt(values[..., :rank] / scale)
    return _split(
        kernel,
        left[..., :rank] * roots[..., None, :],
        roots[..., None] * right[..., :rank, :],
        scale,
    )


def olora(kernel: jax.Array, rank: int, scale: float = 1.0) -> LowRank:
    r"""Splits off an adapter with an orthonormal factor (OLoRA).

    With the QR decomposition :math:`W^T = Q R`, the adapter is :math:`A = R_r^T`, the first rows of
    `R`, and :math:`B = Q_r^T`, whose rows are orthonormal. The scale isn't divided out: the frozen
    kernel is :math:`W - s A B`.

    Args:
      kernel: of shape (..., in, out).
      rank: the adapter's rank, at most min(in, out).
      scale: the factor `s` of the adapter's output, above 0; see `lora_scale`.

    Returns:
      The frozen kernel and the adapter, in the kernel's dtype.

    Raises:
      TypeError, ValueError: as `pissa`.

    Example:
      >>> import jax.numpy as jnp
      >>> split = olora(jnp.diag(jnp.array([3.0, 2.0, 1.0])), rank=2)
      >>> (split.lora_b @ split.lora_b.T).round(5).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Reference:
      Büyükakyüz 2024, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models",
      https://arxiv.org/abs/2406.01775; the numbers of PEFT's `init_lora_weights="olora"`.
    """
    import jax.numpy as jnp

    wide, rank, scale = _checked("olora", kernel, rank, scale)
    q, r = jnp.linalg.qr(jnp.swapaxes(wide, -1, -2))
    lora_a, lora_b = jnp.swapaxes(r, -1, -2)[..., :rank], jnp.swapaxes(q, -1, -2)[..., :rank, :]
    return _split(kernel, lora_a, lora_b, scale)


def lora_ga(
    kernel: jax.Array, gradient: jax.Array, rank: int, scale: float = 1.0, *, gamma: float = 16.0
) -> LowRank:
    r"""Splits off an adapter whose first step follows the gradient of the whole kernel (LoRA-GA).

    With the gradient's singular value decomposition :math:`G = U S V^T`, the adapter is
    :math:`A = c\, U_{1..r}` and :math:`B = c\, V_{r+1..2r}^T`, with
    :math:`c = out^{1/4} / \sqrt{\gamma}`. The gradient's size doesn't matter.

    Args:
      kernel: of shape (..., in, out).
      gradient: the loss's gradient with respect to the kernel, averaged over some batches; of the
        same shape.
      rank: the adapter's rank, at most min(in, out) / 2.
      scale: the factor `s` of the adapter's output, above 0; see `lora_scale`. The paper uses
        rsLoRA's.
      gamma: a larger number makes a smaller adapter.

    Returns:
      The frozen kernel and the adapter, in the kernel's dtype.

    Raises:
      TypeError, ValueError: as `pissa`; the gradient has another shape, or gamma isn't a finite
        number above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> gradient = jnp.diag(jnp.array([3.0, 2.0, 1.0, 0.5]))
      >>> split = lora_ga(jnp.zeros((4, 4)), gradient, rank=1, gamma=2.0)
      >>> jnp.abs(split.lora_a[:, 0]).round(5).tolist(), jnp.abs(split.lora_b[0]).round(5).tolist()
      ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])

    Reference:
      Wang, Yu and Li 2024, "LoRA-GA: Low-Rank Adaptation with Gradient Approximation", section 3,
      https://arxiv.org/abs/2407.05000, and the authors' code (direction "ArB2r", scale "stable").
      PEFT 0.21 differs in the scale: it leaves out `c` in `A` and multiplies `B` by the gradient's
      singular values.
    """
    import jax.numpy as jnp

    wide, rank, scale = _checked("lora_ga", kernel, rank, scale, parts=2)
    gamma = checked_positive("lora_ga", "gamma", gamma)
    if jnp.shape(gradient) != wide.shape:
        raise ValueError(
            f"lora_ga: gradient must have the kernel's shape {wide.shape}, got"
            f" {jnp.shape(gradient)}"
        )
    left, _, right = jnp.linalg.svd(jnp.asarray(gradient).astype(wide.dtype), full_matrices=False)
    factor = wide.shape[-1] ** 0.25 / gamma**0.5
    lora_a, lora_b = factor * left[..., :rank], factor * right[..., rank : 2 * rank, :]
    return _split(kernel, lora_a, lora_b, scale)


def _checked(
    owner: str, kernel: jax.Array, rank: int, scale: float, parts: int = 1
) -> tuple[jax.Array, int, float]:
    """The kernel with at least 32 bits, the rank and the scale."""
    import jax.numpy as jnp

    kernel = jnp.asarray(kernel)
    rank = checked_integer(owner, "rank", rank, 1)
    scale = checked_positive(owner, "scale", scale)
    if kernel.ndim < 2:
        raise ValueError(f"{owner}: kernel must have shape (..., in, out), got {kernel.shape}")
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise TypeError(f"{owner}: kernel must be floating, got {kernel.dtype.name}")
    most = min(kernel.shape[-2:]) // parts
    if rank > most:
        raise ValueError(
            f"{owner}: rank must be at most {most} for a kernel of shape {kernel.shape}, got {rank}"
        )
    _, wide = draw_dtypes(kernel.dtype, None, owner)
    if float(jnp.finfo(kernel.dtype).min) >= 0:
        raise TypeError(f"{owner}: kernel's dtype {kernel.dtype.name} has no sign and no zero")
    return kernel.astype(wide), rank, scale


def _split(kernel: jax.Array, lora_a: jax.Array, lora_b: jax.Array, scale: float) -> LowRank:
    """Rounds the factors first, so that the frozen kernel corrects for their rounding."""
    import jax
    import jax.numpy as jnp

    kernel = jnp.asarray(kernel)
    factors = lora_a.astype(kernel.dtype), lora_b.astype(kernel.dtype)
    wide = [factor.astype(lora_a.dtype) for factor in factors]
    product = jnp.matmul(*wide, precision=jax.lax.Precision.HIGHEST)
    return LowRank((kernel.astype(product.dtype) - scale * product).astype(kernel.dtype), *factors)
