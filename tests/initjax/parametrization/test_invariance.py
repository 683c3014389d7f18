"""Schemes that are one scheme in two forms train the same, and at the base width nothing changes.

A small residual network is trained in double precision, as a user would: drawn by `plan.rules`, its
products multiplied by `plan`'s factors, trained with `plan.transform`. A second implementation, of
NumPy, trains it in other forms, which are written here as the papers' tables have them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax

BASE, WIDTH, DEPTH = 8, 24, (1, 3)
RATE, EPSILON, DECAY, STEPS = 0.05, 1e-3, 0.2, 3
INIT = {"*kernel": initjax.lecun_normal(), "*embedding": initjax.normal(0.7)}
CONSTANTS = {"*/scale": initjax.ones, "*": initjax.zeros}
OPTIMIZERS: dict[str, Callable] = {
    "sgd": lambda: optax.sgd(RATE),
    "momentum": lambda: optax.sgd(RATE, 0.9),
    "adam": lambda: optax.adam(RATE, eps=EPSILON),
    "adamw": lambda: optax.adamw(RATE, eps=EPSILON, weight_decay=DECAY),
    "adamw_independent": lambda: optax.adamw(RATE, eps=EPSILON, weight_decay=DECAY),
    "lion": lambda: optax.lion(RATE / 10, weight_decay=DECAY),
}
SIGNS = ("adam", "adamw", "adamw_independent", "lion")
SCHEMES = ("standard", "ntk", "mup", "depth_mup", "completep", "u_mup", "spectral")
WITHOUT_SGD = ("completep", "u_mup")
CASES = [
    (scheme, optimizer)
    for scheme in SCHEMES
    for optimizer in OPTIMIZERS
    if optimizer in SIGNS or scheme not in WITHOUT_SGD
]


def shapes(width, depth=DEPTH[0], embedding=True):
    tree = {
        "stem/kernel": (12, width),
        "embed/embedding": (6, width),
        "norm/scale": (width,),
        "mix/kernel": (width, 2 * width),
        "back/kernel": (2 * width, width),
        "head/kernel": (width, 3),
        "head/bias": (3,),
    }
    for block in range(depth):
        tree[f"block_{block}/kernel"] = (width, width)
        tree[f"block_{block}/bias"] = (width,)
    if not embedding:
        del tree["embed/embedding"]
    return {path: jax.ShapeDtypeStruct(shape, np.float64) for path, shape in tree.items()}


def plan_of(scheme, optimizer, depth=DEPTH, embedding=True):
    params = shapes(WIDTH, depth[1], embedding), shapes(BASE, depth[0], embedding)
    init = {pattern: INIT[pattern] for pattern in INIT if embedding or "embed" not in pattern}
    return initjax.parametrize(*params, scheme, optimizer, depth=depth, init=init)


def logits(params, multipliers, branch, x, words):
    def product(inputs, path):
        return inputs @ params[path] * multipliers[path]

    hidden = product(x, "stem/kernel")
    if "embed/embedding" in params:
        hidden += params["embed/embedding"][words] * multipliers["embed/embedding"]
    for path in sorted(path for path in params if path.startswith("block") and "kernel" in path):
        bias = params[path.replace("kernel", "bias")]
        hidden += branch * jnp.tanh(product(hidden, path) + bias)
    hidden *= params["norm/scale"]
    hidden += product(jnp.tanh(product(hidden, "mix/kernel")), "back/kernel")
    return product(hidden, "head/kernel") + params["head/bias"]


@jax.jit
def loss_and_gradients(params, multipliers, branch, batch):
    x, words, labels = batch

    def loss(params):
        out = logits(params, multipliers, branch, x, words)
        return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()

    return jax.value_and_grad(loss)(params)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(9, 12)), rng.integers(6, size=9), rng.integers(3, size=9)


def drawn(plan):
    """What the plan draws: kernels by its rules, all else as constants."""
    tree = {leaf.path: jax.ShapeDtypeStruct(leaf.shape, np.float64) for leaf in plan.leaves}
    return initjax.initialize(tree, jax.random.key(7), {**plan.rules, **CONSTANTS})


def curve(plan):
    """The losses of a network that is trained as the plan says."""
    params, branch = drawn(plan), branch_of(plan)
    multipliers = {leaf.path: leaf.multiplier for leaf in plan.leaves}
    transform = plan.transform(OPTIMIZERS[plan.optimizer]())
    state, losses = transform.init(params), []
    for _ in range(STEPS):
        loss, gradients = loss_and_gradients(params, multipliers, branch, batch())
        losses.append(float(loss))
        updates, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return np.array(losses)


def branch_of(plan):
    return plan.multipliers["residual"].value if "residual" in plan.multipliers else 1.0


def other_curve(optimizer, forms, params, branch):
    """The losses of another implementation.

    Args:
      optimizer: its name.
      forms: by path: multiplier, learning rate, epsilon and weight decay, all as factors.
      params: what is drawn.
      branch: what multiplies residual branches.
    """
    params = {path: np.array(value) for path, value in params.items()}
    first = {path: np.zeros_like(value) for path, value in params.items()}
    second = {path: np.zeros_like(value) for path, value in params.items()}
    multipliers = {path: form[0] for path, form in forms.items()}
    losses = []
    for step in range(1, STEPS + 1):
        loss, gradients = loss_and_gradients(params, multipliers, branch, batch())
        losses.append(float(loss))
        for path, (_, rate, epsilon, decay) in forms.items():
            gradient = np.asarray(gradients[path])
            if optimizer == "sgd":
                update = gradient
            elif optimizer == "momentum":
                update = first[path] = 0.9 * first[path] + gradient
            elif optimizer == "lion":
                update = np.sign(0.9 * first[path] + 0.1 * gradient)
                first[path] = 0.99 * first[path] + 0.01 * gradient
            else:
                first[path] = 0.9 * first[path] + 0.1 * gradient
                second[path] = 0.999 * second[path] + 0.001 * gradient**2
                mean, square = first[path] / (1 - 0.9**step), second[path] / (1 - 0.999**step)
                update = mean / (np.sqrt(square) + EPSILON * epsilon)
            decays = {"adamw": rate * decay, "lion": rate * decay, "adamw_independent": decay}
            base = RATE / 10 if optimizer == "lion" else RATE
            params[path] = (
                params[path] * (1 - base * DECAY * decays.get(optimizer, 0)) - base * rate * update
            )
    return np.array(losses)


def exchanged(plan, factors):
    """The numbers of a plan, exchanged: A t, B / t, and C / t^2 or C / t, by path."""
    power = 1 if plan.optimizer in SIGNS else 2
    forms, params = {}, dict(drawn(plan))
    for leaf in plan.leaves:
        t = factors.get(leaf.path, 1.0)
        forms[leaf.path] = (
            leaf.multiplier * t,
            leaf.learning_rate / t**power,
            leaf.epsilon * t,
            leaf.weight_decay * (t if plan.optimizer in ("adamw", "lion") else 1),
        )
        params[leaf.path] = params[leaf.path] / t
    return forms, params


def same(one, other):
    assert one[-1] < one[0] - 0.01  # it trains
    np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize(
    ("scheme", "optimizer"), [case for case in CASES if case[1] in ("sgd", "adamw", "lion")]
)
def test_multiplier_stddev_and_learning_rate_can_be_exchanged(scheme, optimizer):
    plan = plan_of(scheme, optimizer)
    kernels = [leaf.path for leaf in plan.leaves if len(leaf.shape) == 2]
    factors = {path: 3.0 ** (1 + index % 3) for index, path in enumerate(kernels)}
    same(curve(plan), other_curve(optimizer, *exchanged(plan, factors), branch_of(plan)))


# What the papers' tables say of an input, an embedding, a hidden kernel and an output, of fan_in i
# and fan_out o: multiplier, stddev, learning rates of SGD and of Adam. What doesn't change with the
# width is left out. Where muP's tables have 1 for the SGD of hidden kernels, they have one width.
def hidden(i, o):
    return 1, i**-0.5, o / i, 1 / i


def one_rate(i, o):
    return i**-0.5, 1, 1, 1


def spectral(i, o):
    return 1, (min(1, o / i) / i) ** 0.5, o / i, 1 / i


def table_3_input(i, o):
    return 1, 1, o, 1


FORMS = {  # scheme, form: input, embedding, hidden, output
    ("mup", "table 3"): (
        table_3_input,
        table_3_input,
        hidden,
        lambda i, o: (1, 1 / i, 1 / i, 1 / i),
    ),
    ("mup", "table 8"): (
        lambda i, o: (o**0.5, o**-0.5, 1, o**-0.5),
        lambda i, o: (o**0.5, o**-0.5, 1, o**-0.5),
        hidden,
        lambda i, o: (i**-0.5, i**-0.5, 1, i**-0.5),
    ),
    ("mup", "table 9"): (
        table_3_input,
        table_3_input,
        hidden,
        lambda i, o: (1 / i, 1, i, 1),
    ),
    ("spectral", "absorbed"): (spectral, table_3_input, spectral, spectral),
    ("ntk", "with multipliers"): (one_rate, lambda i, o: (1, 1, 1, 1), one_rate, one_rate),
    ("standard", "as it is"): (
        lambda i, o: (1, 1, 1, 1),
        lambda i, o: (1, 1, 1, 1),
        lambda i, o: (1, i**-0.5, 1, 1),
        lambda i, o: (1, i**-0.5, 1, 1),
    ),
}
ROLES = ("input", "embedding", "hidden", "output")


def in_form(plan, form):
    """The numbers of a table for the leaves of a plan, relative to the base model."""
    rows = dict(zip(ROLES, FORMS[plan.scheme, form], strict=True))
    feature_learning = plan.scheme in ("mup", "spectral")
    forms, params = {}, dict(drawn(plan))
    for leaf in plan.leaves:
        growth = np.prod(leaf.shape) / np.prod(leaf.base_shape)
        if leaf.role in rows:
            now, base = (rows[leaf.role](*shape) for shape in (leaf.shape, leaf.base_shape))
            multiplier, stddev, sgd, adam = np.divide(now, base)
            growth = leaf.shape[1] / leaf.base_shape[1]
        else:
            multiplier, stddev, sgd, adam = 1, 1, growth if feature_learning else 1, 1
        rate = adam if plan.optimizer in SIGNS else sgd
        decay = 1 if plan.optimizer == "adamw_independent" else 1 / rate
        # Gradients of muP shrink with the width that follows, and with the multiplier.
        epsilon = multiplier / growth if feature_learning else 1
        forms[leaf.path] = multiplier, rate, epsilon, decay
        params[leaf.path] *= stddev / leaf.stddev
    return forms, params


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("scheme", "form"), FORMS)
def test_the_forms_of_a_scheme_train_the_same(scheme, form, optimizer):
    plan = plan_of(scheme, optimizer, depth=(1, 1))
    same(curve(plan), other_curve(optimizer, *in_form(plan, form), 1.0))


@pytest.mark.parametrize("optimizer", SIGNS)
def test_schemes_agree_where_they_should(optimizer):
    """Without an embedding, whose learning rate u-muP changes, and at equal depth, these are muP.
    In deeper models, u-muP is muP of Tensor Programs VI."""
    known = curve(plan_of("mup", optimizer, (1, 1), embedding=False))
    for scheme in ("depth_mup", "completep", "u_mup"):
        same(curve(plan_of(scheme, optimizer, (1, 1), embedding=False)), known)
    deep = {
        scheme: curve(plan_of(scheme, optimizer, embedding=False))
        for scheme in ("mup", "depth_mup", "completep", "u_mup")
    }
    same(deep["depth_mup"], deep["u_mup"])
    for one, other in (("mup", "depth_mup"), ("mup", "completep"), ("depth_mup", "completep")):
        assert np.abs(deep[one] - deep[other]).max() > 1e-3
    with_embedding = [curve(plan_of(scheme, optimizer, (1, 1))) for scheme in ("mup", "u_mup")]
    assert np.abs(with_embedding[0] - with_embedding[1]).max() > 1e-3


def test_logits_of_a_tied_embedding_are_those_of_an_output():
    """In the form of table 9, the output kernel is drawn and trained as the embedding is."""
    both = {
        "embed": jax.ShapeDtypeStruct((6, WIDTH), np.float64),
        "head": jax.ShapeDtypeStruct((WIDTH, 6), np.float64),
    }
    base = {
        "embed": jax.ShapeDtypeStruct((6, BASE), np.float64),
        "head": jax.ShapeDtypeStruct((BASE, 6), np.float64),
    }
    pairs: Any = [(scheme, optimizer) for scheme, optimizer in CASES if scheme in ("mup", "ntk")]
    for scheme, optimizer in pairs:
        plan = initjax.parametrize(both, base, scheme, optimizer, roles={"embed": "tied"})
        tied, head = plan.leaves
        t = tied.multiplier / head.multiplier
        power = 1 if optimizer in SIGNS else 2
        assert t == pytest.approx({"mup": 1 / 3, "ntk": 3**-0.5}[scheme])
        assert tied.stddev == pytest.approx(head.stddev / t)
        assert tied.learning_rate == pytest.approx(head.learning_rate / t**power)
        if optimizer.startswith("adam"):
            assert tied.epsilon == pytest.approx(head.epsilon * t)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_at_the_base_width_the_plan_is_the_model_itself(scheme: Any, key):
    own = initjax.initialize(shapes(BASE), key, {**INIT, **CONSTANTS})
    gradients = jax.tree.map(lambda leaf: leaf + 0.1, own)
    optimizers: dict[Any, Callable] = {
        one: OPTIMIZERS[one] for name, one in CASES if name == scheme
    }
    if scheme == "mup":
        optimizers["muon"] = lambda: optax.contrib.muon(RATE, ns_steps=1, weight_decay=DECAY)
    for optimizer, make in optimizers.items():
        plan = initjax.parametrize(
            own, own, scheme, optimizer, init=INIT, depth=(2, 2), head_size=(4, 4)
        )
        for leaf in plan.leaves:
            factors = leaf.stddev, leaf.multiplier, leaf.learning_rate, leaf.epsilon
            assert (*factors, leaf.weight_decay) == (1, 1, 1, 1, 1)
        assert all(each.value == 1 and not each.line for each in plan.multipliers.values())
        rescaled = plan.rescale(own)
        assert all(rescaled[path] is leaf for path, leaf in own.items())
        again = initjax.initialize(own, key, {**plan.rules, **CONSTANTS})
        jax.tree.map(np.testing.assert_array_equal, again, own)
        plain, planned = (
            transform.update(gradients, transform.init(own), own)
            for transform in (make(), plan.transform(make()))
        )
        jax.tree.map(np.testing.assert_array_equal, planned, plain)


def test_updates_of_muon_have_the_size_of_the_spectral_condition():
    """Where gradients have rank one, Muon's updates have one singular value, of the same size."""
    norms = {}
    for width in (BASE, WIDTH):
        params = {path: np.ones(shape.shape) for path, shape in shapes(width).items()}
        plan = initjax.parametrize(params, shapes(BASE), "spectral", "muon")
        transform = plan.transform(optax.contrib.muon(RATE, ns_steps=1))
        updates, _ = transform.update(params, transform.init(params), params)
        norms[width] = {
            path: np.linalg.norm(update, 2) * (len(update) / len(update[0])) ** 0.5
            for path, update in updates.items()
            if update.ndim == 2
        }
    for path, norm in norms[BASE].items():
        np.testing.assert_allclose(norm, norms[WIDTH][path], rtol=1e-4)


def test_muon_is_scaled_alike_where_kernels_have_their_outputs_first():
    """Optax takes the second axis for that of the outputs."""
    norms = {}
    for width in (BASE, WIDTH):
        params = {"in": np.ones((width, 24)), "out": np.ones((3, width))}
        base = {"in": np.ones((BASE, 24)), "out": np.ones((3, BASE))}
        plan = initjax.parametrize(
            params, base, "spectral", "muon", roles={"in": "input", "out": "output"}
        )
        transform = plan.transform(optax.contrib.muon(RATE, ns_steps=1))
        updates, _ = transform.update(params, transform.init(params), params)
        norms[width] = [np.linalg.norm(updates[path], 2) for path in ("in", "out")]
    growth = (WIDTH / BASE) ** 0.5
    ratios = np.divide(norms[WIDTH], norms[BASE])
    np.testing.assert_allclose(ratios, [growth, 1 / growth], rtol=1e-4)
