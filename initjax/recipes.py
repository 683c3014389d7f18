r"""Published ways to initialize a whole model, beyond what the shape of one kernel determines.

They rescale the model's own parameters by depth, so its layout and fans don't matter: each takes a
tree of parameters and returns one with the same structure. Path patterns select the parameters, as
for `initjax.initialize`: one pattern, or several in a sequence.

===================  ======================  ============================================
function             draw the model by       then multiply branch weights by
===================  ======================  ============================================
`residual_scaling`   its own initializers    :math:`1/\sqrt{branches}`
`fixup`              He, fan_out, normal     :math:`branches^{-1/(2 layers - 2)}`, or 0
`t_fixup`            Glorot                  :math:`0.67 N^{-1/4}` or :math:`(9 N)^{-1/4}`
`deepnorm`           Glorot, normal          :math:`\beta`
===================  ======================  ============================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from initjax._keys import checked_key, named_key
from initjax._values import checked_choice, checked_integer, checked_number
from initjax.sampling import random_normal
from initjax.trees import Params, fits, match, placed_like, rescaled

if TYPE_CHECKING:
    import jax

Patterns: TypeAlias = str | Sequence[str]
"""A pattern of paths as in `initialize`, or several."""


def residual_scaling(params: Params, num_branches: int, *, outputs: Patterns) -> Params:
    r"""Divides the last kernel of each residual branch by :math:`\sqrt{branches}`, as GPT-2 does.

    The sum of that many independent branches then has the variance of one. In GPT-2 all kernels are
    drawn from N(0, 0.02²), and each layer has two branches: attention and MLP.

    Args:
      params: a tree of parameters, drawn by the model's own initializers.
      num_branches: the number of branches added one after another: two per transformer layer.
      outputs: patterns of the last kernel of each branch.

    Returns:
      A tree of the same structure.

    Raises:
      TypeError, ValueError: num_branches is not an integer above 0; a pattern matches nothing, or
        no pattern is given.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"0": {"c_proj": jnp.ones(2)}, "1": {"c_proj": jnp.ones(2)}}
      >>> residual_scaling(params, 4, outputs="*/c_proj")["1"]["c_proj"].tolist()
      [0.5, 0.5]

    Reference:
      Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3,
      https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
    """
    branches = checked_integer("residual_scaling", "num_branches", num_branches, 1)
    outputs = _required("residual_scaling", "outputs", outputs)
    return rescaled("residual_scaling", params, _each(outputs, branches**-0.5))


def fixup(
    params: Params,
    num_branches: int,
    *,
    inner: Patterns,
    last: Patterns,
    head: Patterns = (),
    layers_per_branch: int = 2,
) -> Params:
    r"""Scales a residual network without normalization so that a step of SGD changes it by O(1).

    Layers in a branch are multiplied by :math:`L^{-1/(2m-2)}`, with `L` branches of `m` layers; the
    last layer of each branch and the head become zeros. Draw the kernels by
    `variance_scaling(2.0, "fan_out", "normal")` first. The model needs a scalar bias (0) before every layer
    and activation, and a scalar multiplier (1) in each branch, in place of normalization.

    Args:
      params: a tree of parameters, drawn as above.
      num_branches: `L`, the number of residual branches.
      inner: patterns of the branches' kernels, except the last.
      last: patterns of the last kernel of each branch.
      head: patterns of the classification layer's kernel and bias.
      layers_per_branch: `m`, at least 2; 3 for bottleneck blocks.

    Returns:
      A tree of the same structure.

    Raises:
      TypeError, ValueError: a number is not an integer in its range; a pattern matches nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"block": {"conv1": jnp.ones(1), "conv2": jnp.ones(1)}, "head": jnp.ones(1)}
      >>> fixup(params, 16, inner="*/conv1", last="*/conv2", head="head")
      {'block': {'conv1': Array([0.25], dtype=float32), 'conv2': Array([0.], dtype=float32)}, 'head': Array([0.], dtype=float32)}

    Reference:
      Zhang et al. 2019, "Fixup Initialization: Residual Learning Without Normalization", section 3,
      https://arxiv.org/abs/1901.09321, and the authors' code.
    """  # noqa: E501
    branches = checked_integer("fixup", "num_branches", num_branches, 1)
    layers = checked_integer("fixup", "layers_per_branch", layers_per_branch, 2)
    inner, last = _required("fixup", "inner", inner), _required("fixup", "last", last)
    factor = branches ** (-1 / (2 * layers - 2))
    return rescaled(
        "fixup", params, {**_each(last, 0.0), **_each(head, 0.0), **_each(inner, factor)}
    )


def t_fixup(
    params: Params, num_layers: int, stack: str, *, weights: Patterns, embeddings: Patterns = ()
) -> Params:
    r"""Scales a transformer's encoder or decoder to train without normalization and warm-up.

    The weights are multiplied by :math:`0.67 N^{-1/4}` in an encoder and by :math:`(9 N)^{-1/4}` in
    a decoder of `N` layers, embeddings by :math:`(9 N)^{-1/4}`. For a model with both, call this
    once for each. Draw kernels by Glorot's initializers first, embeddings from N(0, 1/features).

    Args:
      params: a tree of parameters, drawn as above.
      num_layers: `N`, the number of layers of this stack.
      stack: 'encoder' or 'decoder'.
      weights: patterns of the value and output kernels of each attention and of both kernels of
        each MLP, without queries and keys.
      embeddings: patterns of the embeddings that the stack reads.

    Returns:
      A tree of the same structure.

    Raises:
      TypeError, ValueError: num_layers is not an integer above 0, stack is neither, or a
        pattern matches nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> params = t_fixup({"value": jnp.ones(1)}, 6, "encoder", weights="value")
      >>> round(float(params["value"][0]), 4)
      0.4281

    Reference:
      Huang et al. 2020, "Improving Transformer Optimization Through Better Initialization", section
      3.2, https://proceedings.mlr.press/v119/huang20f.html, and the authors' code.
    """
    layers = checked_integer("t_fixup", "num_layers", num_layers, 1)
    checked_choice("t_fixup", "stack", stack, ("encoder", "decoder"))
    weights = _required("t_fixup", "weights", weights)
    decoder = (9 * layers) ** -0.25
    factor = decoder if stack == "decoder" else 0.67 * layers**-0.25
    return rescaled("t_fixup", params, {**_each(embeddings, decoder), **_each(weights, factor)})


def deepnorm_constants(
    stack: str, *, encoder_layers: int = 0, decoder_layers: int = 0
) -> tuple[float, float]:
    r"""The constants of DeepNorm: `alpha` for the model, `beta` for its initialization.

    The model adds :math:`LayerNorm(\alpha x + f(x))`; `deepnorm` multiplies weights by `beta`. With
    `N` layers in an encoder and `M` in a decoder:

    =======  =========================  ==========================  ===================  ===================
    \        encoder                    (of encoder-decoder)        decoder              (of encoder-decoder)
    =======  =========================  ==========================  ===================  ===================
    alpha    :math:`(2N)^{1/4}`         :math:`0.81 (N^4 M)^{1/16}`  :math:`(2M)^{1/4}`   :math:`(3M)^{1/4}`
    beta     :math:`(8N)^{-1/4}`        :math:`0.87 (N^4 M)^{-1/16}` :math:`(8M)^{-1/4}`  :math:`(12M)^{-1/4}`
    =======  =========================  ==========================  ===================  ===================

    Args:
      stack: 'encoder' or 'decoder', the stack that the constants are for.
      encoder_layers: `N`; 0 if there is no encoder.
      decoder_layers: `M`; 0 if there is no decoder.

    Returns:
      alpha and beta.

    Raises:
      TypeError, ValueError: stack is neither, a number of layers is not an integer, or the stack
        has no layers.

    Example:
      >>> alpha, beta = deepnorm_constants("decoder", decoder_layers=8)
      >>> alpha, round(beta, 4)
      (2.0, 0.3536)

    Reference:
      Wang et al. 2022, "DeepNet: Scaling Transformers to 1,000 Layers", figure 2,
      https://arxiv.org/abs/2203.00555, and the authors' torchscale.
    """  # noqa: E501
    owner = "deepnorm_constants"
    checked_choice(owner, "stack", stack, ("encoder", "decoder"))
    minimum = {"encoder": 0, "decoder": 0, stack: 1}
    n = checked_integer(owner, "encoder_layers", encoder_layers, minimum["encoder"])
    m = checked_integer(owner, "decoder_layers", decoder_layers, minimum["decoder"])
    if not (n and m):
        return (2 * (n or m)) ** 0.25, (8 * (n or m)) ** -0.25
    if stack == "decoder":
        return (3 * m) ** 0.25, (12 * m) ** -0.25
    both = (n**4 * m) ** (1 / 16)
    return 0.81 * both, 0.87 / both


def deepnorm(
    params: Params,
    stack: str,
    *,
    weights: Patterns,
    encoder_layers: int = 0,
    decoder_layers: int = 0,
) -> Params:
    r"""Scales the encoder or decoder of a post-norm transformer with up to hundreds of layers.

    The weights are multiplied by :math:`\beta`. Draw all kernels by
    `glorot_normal()` or similar first. The model adds :math:`LayerNorm(\alpha x + f(x))`; see
    `deepnorm_constants`. For a model with both stacks, call this once for each.

    Args:
      params: a tree of parameters, drawn as above.
      stack: 'encoder' or 'decoder', the stack to scale.
      weights: patterns of the value and output kernels of each attention and of both kernels of
        each MLP, without queries and keys.
      encoder_layers: its number; 0 if there is no encoder.
      decoder_layers: its number; 0 if there is no decoder.

    Returns:
      A tree of the same structure.

    Raises:
      TypeError, ValueError: as `deepnorm_constants`; a pattern matches nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> params = deepnorm({"out": jnp.ones(1)}, "encoder", weights="out", encoder_layers=2)
      >>> params["out"].tolist()
      [0.5]

    Reference:
      Wang et al. 2022, see `deepnorm_constants`.
    """
    _, beta = deepnorm_constants(
        stack, encoder_layers=encoder_layers, decoder_layers=decoder_layers
    )
    return rescaled("deepnorm", params, _each(_required("deepnorm", "weights", weights), beta))


def mimetic(
    params: Params,
    key: jax.Array,
    attention: Patterns = "*",
    *,
    query_key: tuple[float, float] = (0.7, 0.7),
    value_output: tuple[float, float] = (0.4, 0.4),
) -> Params:
    r"""Draws self-attention so that the products of its kernels look as they do after training.

    For every head :math:`W_Q W_K^T \approx \alpha_1 Z + \beta_1 I`, and for all heads together
    :math:`W_V W_O = \alpha_2 Z - \beta_2 I`, with :math:`Z_{ij} \sim N(0, 1/d)`, drawn
    independently for each product. A singular value decomposition splits each product; each factor
    gets the square root of the singular values, and a head keeps the largest. The paper's models
    have fixed sinusoidal position embeddings. All other parameters, and biases, stay as they are.

    An attention is four kernels as in Flax: `query/kernel`, `key/kernel` and `value/kernel` of
    shape (d, heads, d / heads), `out/kernel` of (heads, d / heads, d), in Linen or NNX.

    Args:
      params: a tree of parameters.
      key: a PRNG key; each attention's own key is derived from its path.
      attention: patterns of the attentions' paths.
      query_key: alpha and beta of queries and keys.
      value_output: alpha and beta of values and outputs.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      TypeError, ValueError: alpha or beta is not a finite number, a pattern matches no attention,
        or its kernels have other shapes.

    Example:
      >>> import jax
      >>> from flax import linen as nn
      >>> x = jax.numpy.ones((1, 4, 64))
      >>> model = nn.MultiHeadDotProductAttention(num_heads=2)
      >>> params = mimetic(model.init(jax.random.key(0), x), jax.random.key(1))["params"]
      >>> product = params["value"]["kernel"].reshape(64, 64) @ params["out"]["kernel"].reshape(64, 64)
      >>> round(float(product.trace() / 64), 1)
      -0.4

    Reference:
      Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers", section 4,
      https://arxiv.org/abs/2305.09828
    """  # noqa: E501
    import jax.numpy as jnp

    for name, pair in (("query_key", query_key), ("value_output", value_output)):
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"mimetic: {name} must be a pair (alpha, beta), got {pair!r}")
        for number in pair:
            checked_number("mimetic", name, number)
    checked_key("mimetic", key, "call mimetic(params, key)")
    leaves, structure, matches = match("mimetic", params, {"*": None})
    places = {name: index for name, index, _ in matches}
    query = "query/kernel"
    found = [name[: -len(query)] for name in places if f"/{name}".endswith(f"/{query}")]
    chosen = set()
    for pattern in _required("mimetic", "attention", attention):
        matching = [path for path in found if fits(path.rstrip("/"), pattern)]
        if not matching:
            raise ValueError(
                f"mimetic: no attention matches {pattern!r}; the paths with {query!r} are"
                f" {', '.join(path.rstrip('/') for path in found) or 'none'}"
            )
        chosen.update(matching)
    for path in sorted(chosen):
        names = [f"{path}{part}/kernel" for part in ("query", "key", "value", "out")]
        shapes = [tuple(leaves[places[name]].shape) for name in names if name in places]
        d, heads, width = shapes[0] if len(shapes[0]) == 3 else (0, 0, 0)
        if shapes != [(d, heads, width)] * 3 + [(heads, width, d)] or heads * width != d:
            raise ValueError(
                f"mimetic: {path.rstrip('/')!r} must hold kernels of the shapes (d, heads, d/heads)"
                f" in query, key and value, and (heads, d/heads, d) in out; got {shapes}"
            )
        own = named_key(key, path.rstrip("/"))
        left, right = _factors(named_key(own, "query key"), (heads, d, d), *query_key)
        kernels = [jnp.moveaxis(factor[..., :width], 0, 1) for factor in (left, right)]
        alpha, beta = value_output
        left, right = _factors(named_key(own, "value out"), (d, d), alpha, -beta)
        kernels += [left.reshape(d, heads, width), right.T.reshape(heads, width, d)]
        for name, kernel in zip(names, kernels, strict=True):
            leaf = leaves[places[name]]
            leaves[places[name]] = placed_like(leaf, kernel.astype(leaf.dtype))
    return structure.unflatten(leaves)


def _factors(
    key: jax.Array, shape: tuple[int, ...], alpha: float, beta: float
) -> tuple[jax.Array, jax.Array]:
    """`A` and `B` with `A B^T = alpha Z + beta I`, their columns by falling singular values."""
    import jax.numpy as jnp

    noise = random_normal(0.0, abs(alpha) / shape[-1] ** 0.5)(key, shape, jnp.float32)
    eye = jnp.broadcast_to(jnp.eye(shape[-1], dtype=jnp.float32), shape)
    left, values, right = jnp.linalg.svd(noise + beta * eye)
    root = jnp.sqrt(values)[..., None, :]
    return left * root, jnp.swapaxes(right, -1, -2) * root


def _several(patterns: Patterns) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def _required(owner: str, name: str, patterns: Patterns) -> Sequence[str]:
    """The patterns, if there is one."""
    several = _several(patterns)
    if not several:
        raise ValueError(f"{owner}: {name} must hold a pattern at least, got {patterns!r}")
    return several


def _each(patterns: Patterns, factor: float) -> dict[str, float]:
    return dict.fromkeys(_several(patterns), factor)
