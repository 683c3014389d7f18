"""Faults of depth and activation: vanishing, exploding, dying, linear stacks, SIREN, attention."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from . import data
from .cases import (
    GLOROT,
    KERAS_NORMAL,
    NORMAL,
    Apply,
    Bug,
    Friend,
    Init,
    Model,
    Recipe,
    bce,
    cross_entropy,
    keras_uniform,
    mlp,
    mse,
)

relu, sigmoid, softmax, tanh = jax.nn.relu, jax.nn.sigmoid, jax.nn.softmax, jnp.tanh
init = jax.nn.initializers
HE_UNIFORM, HE, LECUN = init.he_uniform(), init.he_normal(), init.lecun_normal()
FAST = optax.adam(1e-2)


def _family(
    name: str, activation: Callable, layers: int, kernel: Init, *causes: str
) -> tuple[Bug, Bug]:
    """A family of AUTOTRAINER, on circles times 100 as published, and divided by 100."""
    sizes = (2, *(5,) * layers, 1)
    faulty = Recipe(
        mlp(sizes, (*(activation,) * layers, sigmoid), kernel), bce, data.circles(100.0), FAST
    )
    repaired = faulty.but(
        model=mlp((2, 5, 5, 5, 1), (tanh, tanh, tanh, sigmoid)), data=data.circles(1.0)
    )
    says = f"circles, {layers} layers of 5"
    return (
        Bug(
            f"AUTOTRAINER, {name}",
            f"{says}, inputs times 100 -> 3 tanh layers, divided by 100",
            faulty,
            repaired,
            (*causes, "input_scale"),
        ),
        Bug(
            f"AUTOTRAINER, {name}, divided by 100",
            f"{says} -> 3 tanh layers",
            faulty.but(data=data.circles(1.0)),
            repaired,
            causes,
        ),
    )


_bits = Recipe(mlp((8, 8, 8, 8), (sigmoid,) * 3, KERAS_NORMAL), mse, data.bits(), optax.sgd(0.5))
_circles = Recipe(mlp((2, 32, 32, 1), (relu, relu, sigmoid)), bce, data.circles(1.0), FAST)
_digits = Recipe(mlp((784, 64, 64, 10), (relu, relu, None), HE), cross_entropy, data.digits())

DEPTH = (
    Bug(
        "SO39217567 (DeepLocalize, DeepFD)",
        "identity of 8 bits, 8-8-8-8 sigmoid, N(0, .05²), MSE -> relu",
        _bits,
        _bits.but(model=mlp((8, 8, 8, 8), (relu, relu, sigmoid))),
        ("vanishing", "depth", "collapse"),
    ),
    *_family(
        "exponential x8, he_uniform",
        jnp.exp,
        8,
        HE_UNIFORM,
        "exploding",
        "not_finite",
        "saturated",
    ),
    *_family("sigmoid x11, he_uniform", sigmoid, 11, HE_UNIFORM, "vanishing", "depth", "collapse"),
    *_family("relu x8, U(-.05, .05)", relu, 8, keras_uniform, "vanishing", "depth", "dead"),
    *_family(
        "relu x16, he_uniform", relu, 16, HE_UNIFORM, "dead", "depth", "collapse", "vanishing"
    ),
    Bug(
        "baseCNN_wrong_act (TheDeepChecker)",
        "softmax as a hidden activation -> ReLU",
        _digits.but(model=mlp((784, 64, 64, 10), (softmax, relu, None), HE)),
        _digits,
        ("vanishing", "collapse", "depth"),
    ),
    Bug(
        "dying ReLU by biases (DeepCrime's kind)",
        "biases -1 in a narrow network -> 0",
        _circles.but(
            model=mlp((2, 8, 8, 8, 1), (relu, relu, relu, sigmoid), HE, init.constant(-1.0))
        ),
        _circles.but(model=mlp((2, 8, 8, 8, 1), (relu, relu, relu, sigmoid), HE)),
        ("dead", "vanishing"),
    ),
)

LINEAR = (
    Bug(
        "activations removed (DeepCrime's mutation)",
        "2-32-32-1, no activation between -> ReLU",
        _circles.but(model=mlp((2, 32, 32, 1), (None, None, sigmoid))),
        _circles,
        ("no_activation",),
    ),
    Bug(
        "activation forgotten (NeuraLint's rule)",
        "a regression by 9-32-32-1 without activation -> ReLU",
        Recipe(mlp((1, 32, 32, 1), (None, None, None)), mse, data.wave(), FAST),
        Recipe(mlp((1, 32, 32, 1), (relu, relu, None)), mse, data.wave(), FAST),
        ("no_activation",),
    ),
    Bug(
        "one activation forgotten (NeuraLint's rule)",
        "784-64-64-10, nothing after the first layer -> ReLU",
        _digits.but(model=mlp((784, 64, 64, 10), (None, relu, None), GLOROT)),
        _digits.but(model=mlp((784, 64, 64, 10), (relu, relu, None), GLOROT)),
        ("no_activation",),
        harmless=True,
    ),
)


def _siren(first: float) -> Model:
    """sin(30 (x W + b)): W of the first layer is from U(-first, first)."""

    def around_zero(limit: float) -> Init:
        def draw(key: jax.Array, shape: Sequence[int]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

        return draw

    hidden = math.sqrt(6 / 64) / 30

    def periodic(x: jax.Array) -> jax.Array:
        return jnp.sin(30 * x)

    kernels = (around_zero(first), around_zero(hidden), around_zero(hidden), around_zero(0.1))
    return mlp((1, 64, 64, 64, 1), (periodic,) * 3 + (None,), kernels)


_sine = Recipe(_siren(math.sqrt(6) / 30), mse, data.wave(), optax.adam(3e-4))

FIRST = (
    Bug(
        "siren-pytorch#1",
        "SIREN, first layer drawn like a hidden one -> U(-1 / fan_in, 1 / fan_in)",
        _sine,
        _sine.but(model=_siren(1.0)),
        ("first_layer",),
    ),
)


def _attention(
    blocks: int,
    query_scale: float,
    *,
    by_root: bool = True,
    residual: bool = True,
) -> Model:
    """Embedded tokens, blocks of one attention head each, and a readout.

    The kernels of queries and keys have variance `query_scale` / fan_in.
    """
    width = 32
    drawn = NORMAL(math.sqrt(query_scale / width))

    def make(key: jax.Array) -> tuple[Apply, object]:
        token_key, place_key, out_key, *keys = jax.random.split(key, 3 + 4 * blocks)
        shape = (width, width)
        params = {
            "tokens": NORMAL(1.0)(token_key, (32, width)),
            "places": NORMAL(1.0)(place_key, (16, width)),
            "blocks": [
                {
                    "q": drawn(keys[4 * i], shape),
                    "k": drawn(keys[4 * i + 1], shape),
                    "v": LECUN(keys[4 * i + 2], shape),
                    "o": LECUN(keys[4 * i + 3], shape),
                }
                for i in range(blocks)
            ],
            "out": LECUN(out_key, (width, 32)),
        }
        return apply, params

    def norm(x: jax.Array) -> jax.Array:
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)

    def apply(params, tokens: jax.Array) -> jax.Array:
        x = params["tokens"][tokens] + params["places"][: tokens.shape[1]]
        for block in params["blocks"]:
            y = norm(x)
            scores = jnp.einsum("ntd,nsd->nts", y @ block["q"], y @ block["k"])
            scores = scores / math.sqrt(width) if by_root else scores
            mixed = jax.nn.softmax(scores) @ (y @ block["v"]) @ block["o"]
            x = x + mixed if residual else mixed
        return norm(x) @ params["out"]

    return make


_copy = Recipe(_attention(2, 1.0), cross_entropy, data.tokens(), optax.adam(3e-3))

ATTENTION = (
    Bug(
        "1/sqrt(d) forgotten (asked often)",
        "two blocks, scores of stddev 6 -> divided by sqrt(32)",
        _copy.but(model=_attention(2, 1.0, by_root=False)),
        _copy,
        ("attention_one_hot",),
    ),
    Bug(
        "queries and keys from N(0, 1) (IPS_4's kind)",
        "scores of stddev 180 -> lecun_normal, divided by sqrt(32)",
        _copy.but(model=_attention(2, 32.0, by_root=False)),
        _copy,
        ("attention_one_hot",),
    ),
    Bug(
        "attention without a residual stream (Dong et al. 2021)",
        "eight blocks, each token an average of all -> with residuals",
        _copy.but(model=_attention(8, 1.0, residual=False)),
        _copy.but(model=_attention(8, 1.0)),
        ("attention_uniform", "collapse"),
    ),
)

FRIENDS = (
    Friend("SIREN, first layer as published", "frequencies that fit", _sine.but(model=_siren(1.0))),
    Friend(
        "two linear layers on purpose (LoRA's kind)",
        "a bottleneck of rank 8",
        Recipe(
            mlp((784, 8, 64, 10), (None, relu, None), LECUN),
            cross_entropy,
            data.digits(),
        ),
    ),
    Friend(
        "attention with small scores",
        "two blocks that start as averages",
        _copy.but(model=_attention(2, 0.01)),
    ),
)
