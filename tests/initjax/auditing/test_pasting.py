"""The code in a report works where it is pasted: audited again, the model has the fault no more."""

import ast
import collections
import functools
import pathlib
import textwrap
import types
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.core import freeze

import initjax
from initjax._wrapping import code_lines
from initjax.auditing._judging import causes as causes_of_faults
from initjax.auditing._reporting.pasting import LINES, patterns_of
from initjax.auditing._reporting.written import written

X = jax.random.normal(jax.random.key(1), (64, 12))
KEYS = jax.random.split(jax.random.key(3), 12)


def cross_entropy(logits):
    labels = jnp.arange(len(logits)) % 5
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def causes(report):
    return [finding.cause for finding in report.findings]


def pasted(report, cause, **names):
    """The code that a report shows for a cause, and the names after running it as it is printed.

    A line of a model's definition becomes `module`.
    """
    (finding,) = [finding for finding in report.findings if finding.cause == cause]
    lines = code_lines(finding.code, 80, " " * 5)
    assert lines and "\n".join(lines) in str(report)
    names |= {"jax": jax, "initjax": initjax, "nn": nn, "nnx": nnx}
    code = textwrap.dedent("\n".join(lines))
    is_module = code.startswith(("nn.", "nnx."))
    exec(f"module = {code}" if is_module else code, names)
    return finding.code, names


class Linen(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.relu(self.layer.copy(name="hidden")(x)))


class NNX(nnx.Module):
    def __init__(self, layer, rngs):
        self.hidden, self.out = layer, nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def test_linen():
    def audit(layer):
        model = Linen(layer)
        params = model.init(KEYS[0], X)
        return initjax.audit(lambda params, x: cross_entropy(model.apply(params, x)), params, X)

    code, names = pasted(audit(nn.Dense(16, kernel_init=nn.initializers.zeros)), "zero")
    assert code == "nn.Dense(16, kernel_init=initjax.he_normal())"
    assert "zero" not in causes(audit(names["module"]))


def test_nnx():
    def audit(layer):
        model = NNX(layer, nnx.Rngs(1))
        return initjax.audit(lambda model, x: cross_entropy(model(x)), model, X)

    rngs = nnx.Rngs(0)
    zeros = nnx.Linear(12, 16, use_bias=False, kernel_init=nnx.initializers.zeros, rngs=rngs)
    code, names = pasted(audit(zeros), "zero", rngs=rngs)
    assert code == (
        "nnx.Linear(12, 16, use_bias=False, kernel_init=initjax.he_normal(), rngs=rngs)"
    )
    assert "zero" not in causes(audit(names["module"]))


Pair = collections.namedtuple("Pair", ["w", "b"])
HE, LECUN = initjax.he_normal(), initjax.lecun_normal()
OUT = LECUN(KEYS[5], (16, 5))


def mlp(params, x):
    return cross_entropy(jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"])


def pairs(params, x):
    (first, second) = params
    return cross_entropy(jnp.tanh(x @ first.w.T + first.b) @ second.w.T + second.b)


def heads(params, x):
    each = jnp.tanh(jnp.einsum("bd,dhk->bhk", x, params["q"]))
    return cross_entropy(jnp.einsum("bhk,hko->bo", each, params["o"]))


def scanned(params, x):
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), jnp.pad(x, ((0, 0), (0, 4))),
                     params["stack"])[0]  # fmt: skip
    return cross_entropy(x @ params["v"])


def chain(params, x):
    for w in params["w"]:
        x = jax.nn.relu(x @ w)
    return jnp.square(x).mean()


def residual(params, x):
    x = x @ params["in"]
    for block in params["blocks"]:
        x = x + jax.nn.relu(x @ block["up"]) @ block["down"]
    return jnp.square(x @ params["out"]).mean()


def conv(params, x):
    image = x.reshape(-1, 3, 4, 1)
    image = jax.lax.conv_general_dilated(image, params["k"], (1, 1), "SAME",
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
    return cross_entropy(jax.nn.relu(image).mean((1, 2)) @ params["v"])


@functools.cache
def equinox_mlp():
    model = eqx.nn.MLP(12, 5, 16, 3, key=KEYS[0])
    return eqx.tree_at(
        lambda m: (m.layers[1].weight, m.layers[2].weight), model, replace_fn=jnp.zeros_like
    )


def equinox_loss(model, x):
    return cross_entropy(jax.vmap(model)(x))


def healthy(**others):
    return {"w": HE(KEYS[6], (12, 16)), "b": jnp.zeros(16), "v": OUT} | others


TREES = [
    (mlp, lambda: healthy(w=jnp.zeros((12, 16))), "zero",
     'params["w"] = initjax.he_normal()(jax.random.key(0), params["w"].shape)'),
    (mlp, lambda: healthy(w=jnp.zeros((12, 16), jnp.bfloat16)), "zero",
     'params["w"] = initjax.he_normal()(jax.random.key(0), params["w"].shape,'
     ' params["w"].dtype)'),
    (mlp, lambda: healthy(v=40 * OUT), "output_scale",
     'params = initjax.rescale(params, {"v": 0.0'),
    (mlp, lambda: healthy(b=jnp.full(16, -9.0)), "dead",
     'params = initjax.initialize(params, jax.random.key(0), {"b": initjax.zeros})'),
    (mlp, lambda: healthy(spare=OUT), "unused", 'del params["spare"]'),
    (mlp, lambda: healthy(w=jnp.full((12, 16), jnp.nan)), "not_finite", 'params["w"] = '),
    (pairs, lambda: [Pair(jnp.ones((16, 12)), jnp.zeros(16)), Pair(OUT.T, jnp.zeros(5))],
     "symmetry",
     'params = initjax.initialize(params, jax.random.key(0), {"0/w":'
     " initjax.lecun_normal(in_axis=1, out_axis=0)})"),
    (heads, lambda: {"q": 0.1 + jnp.zeros((12, 4, 4)), "o": OUT.reshape(4, 4, 5)}, "symmetry",
     'params["q"] = initjax.lecun_normal(in_axis=0, out_axis=(1, 2))(jax.random.key(0),'
     ' params["q"].shape)'),
    (scanned, lambda: {"stack": jnp.full((3, 16, 16), 0.1), "v": OUT}, "symmetry",
     'params["stack"] = initjax.lecun_normal(batch_axis=0)(jax.random.key(0),'
     ' params["stack"].shape)'),
    (conv, lambda: {"k": jnp.zeros((3, 3, 1, 16)), "v": OUT}, "zero", 'params["k"] = initjax.he'),
    (chain, lambda: {"w": [0.3 * HE(key, (12, 12)) for key in KEYS]}, "vanishing",
     'params = initjax.initialize(params, jax.random.key(0), {"w/11": initjax.lecun_normal(),'
     ' "w/*": initjax.he_normal()})'),
    (residual,
     lambda: {
         "in": LECUN(KEYS[0], (12, 16)), "out": OUT,
         "blocks": [{"up": HE(key, (16, 16)), "down": LECUN(KEYS[n - 1], (16, 16))}
                    for n, key in enumerate(KEYS)],
     },
     "branch_scale",
     'params = initjax.residual_scaling(params, 12, outputs="blocks/*/down")'),
    (equinox_loss, equinox_mlp, "zero",
     'model = initjax.initialize(model, jax.random.key(0), {"layers/'),
]  # fmt: skip


@pytest.mark.parametrize(("loss_fn", "make", "cause", "code"), TREES)
def test_trees(loss_fn, make, cause, code):
    params = make()
    found, names = pasted(initjax.audit(loss_fn, params, X), cause, params=params, model=params)
    assert found.startswith(code)
    repaired = names["model" if found.startswith("model") else "params"]
    assert cause not in causes(initjax.audit(loss_fn, repaired, X))


def test_inputs_and_learning_rates():
    found = initjax.audit(mlp, healthy(), 100 * X)
    code, names = pasted(found, "input_scale", x=100 * X)
    assert code.startswith("x = x / ") and "input_scale" not in causes(
        initjax.audit(mlp, healthy(), names["x"])
    )
    found = initjax.audit(mlp, healthy(), X + 60)
    code, names = pasted(found, "input_offset", x=X + 60)
    assert "input_offset" not in causes(initjax.audit(mlp, healthy(), names["x"]))
    found = initjax.audit(mlp, healthy(), X, optimizer=optax.sgd(300.0))
    code, names = pasted(found, "update", learning_rate=300.0)
    again = initjax.audit(mlp, healthy(), X, optimizer=optax.sgd(names["learning_rate"]))
    assert "update" not in causes(again)


@pytest.mark.parametrize("width", [60, 72, 80])
def test_long_code_is_broken_where_python_allows_it(width):
    code = (
        'params["w"] = initjax.initialize(params["w"], jax.random.key(0), {"blocks/attention/*/q":'
        ' initjax.he_normal(in_axis=0, out_axis=(1, 2)), "b": initjax.zeros})'
    )
    lines = code_lines(code, width, "  ")
    assert max(map(len, lines)) <= width
    again = ast.parse(textwrap.dedent("\n".join(lines)))
    assert ast.dump(again) == ast.dump(ast.parse(code))


NAMES = ["b/0/k", "b/0/q", "b/1/k", "b/1/q", "in/k", "out/[x]"]


@pytest.mark.parametrize(
    ("wanted", "others", "patterns"),
    [
        ("b/0/k b/1/k", "", ["b/*/k"]),
        ("b/0/k b/1/k b/0/q b/1/q", "", ["b/*/k", "b/*/q"]),
        ("b/0/k b/1/k in/k", "", ["*/k"]),
        ("b/0/k in/k", "", ["b/0/k", "in/k"]),
        ("b/0/k", "", ["b/0/k"]),
        ("b/0/k in/k", "b/1/k", ["*/k"]),
        ("out/[x]", "", ["out/[[]x]"]),
    ],
)
def test_patterns_match_what_they_should(wanted, others, patterns):
    evidence: Any = types.SimpleNamespace(traced=types.SimpleNamespace(names=NAMES))
    leaves, more = ({NAMES.index(name) for name in text.split()} for text in (wanted, others))
    assert patterns_of(leaves, evidence, more) == patterns


def test_remedies_that_have_a_line_are_those_of_checks():
    folder = pathlib.Path(causes_of_faults.__file__).parent
    checks = "".join(path.read_text() for path in folder.glob("*.py"))
    assert all(start in checks for start in LINES)


def test_how_a_model_is_written():
    linen = Linen(nn.Dense(3)).init(KEYS[0], X)
    assert written(linen, ["['params']['a']"]).style == "linen"
    assert written(freeze(linen["params"]), ["['hidden']['kernel']"]) == (
        "linen", "params", ("['hidden']['kernel']",), False,
    )  # fmt: skip
    state = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))[1]
    assert written(state, ["['kernel'].value"])[:2] == ("nnx", "params")
    assert written(linen["params"], ["['Dense_0']['kernel']"]).style == "linen"
    assert written({"net": equinox_mlp()}, ["['net'].layers[0].weight"]).style == "equinox"
    assert not written({"a": (1, 2)}, ["['a'][0]"]).assignable
    plain = written({"a": [1, {"b": 2}]}, ["['a'][0]", "['a'][1]['b']"])
    assert (plain.style, plain.assignable) == ("plain", True)
