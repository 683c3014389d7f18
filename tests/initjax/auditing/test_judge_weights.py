"""Faults of weights themselves are found: fans, zeros, copies, means and members."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax
from initjax._copies import copies
from tests.initjax.auditing.judged import (
    CLASSES,
    INPUTS,
    Model,
    X,
    audited,
    causes,
    cross_entropy,
    normal,
    params,
    square,
    tanh,
    with_value,
)


def test_a_fan_miscounted_from_the_kernels_shape_is_found():
    """In every layer; once it does no harm."""

    def heads(p, x):
        for kernel in p["heads"]:
            x = jax.nn.relu(jnp.einsum("bd,dnh->bnh", x, kernel)).reshape(len(x), -1)
        return square(x @ p["out"])

    shape = (INPUTS, 16, 2)
    model = Model(heads, {"heads": [jnp.ones(shape)] * 4, "out": jnp.ones((32, 4))}, X)
    right = initjax.he_normal(**initjax.einsum_fans("bd,dnh->bnh"))
    for inits, found in (
        ([initjax.he_normal()] * 4, [("wrong_fan", "warning")]),
        ([initjax.he_normal(), right, right, right], []),
        ([right] * 4, []),
    ):
        kernels = [init(jax.random.key(i), shape) for i, init in enumerate(inits)]
        report = model({"heads": kernels, "out": normal(2, 32, 4)}, X)
        assert causes(report) == found
        for finding in report.findings:
            assert "heads/0" in finding.message and "fan_in 512 instead of 32" in finding.message
            assert "einsum_fans(equation)" in finding.remedy


@pytest.mark.parametrize("window", [(), (3, 3)])
def test_kernels_stored_as_out_in_are_told_how_to_say_so(window):
    """Each kernel with the fan that its initializer used, and one layout that fits them all."""

    def loss(p, x):
        z = x
        for kernel in p.values():
            z = jax.lax.conv(x, kernel, (1, 1), "SAME") if window else x @ kernel.T
            x = jax.nn.relu(z)
        return cross_entropy(z if not window else z.mean((2, 3)))

    widths = (8, 32, 32, 32, 32, CLASSES) if window else (256, 64, CLASSES)
    shapes = {
        name: (outputs, inputs, *window)
        for name, inputs, outputs in zip("abcde", widths, widths[1:], strict=False)
    }
    x = np.random.default_rng(0).normal(size=(64, widths[0], *(6,) * len(window)))
    x = jnp.asarray(x, "float32")

    def finding(**layout):
        init = initjax.he_normal(**layout)
        tree = {name: init(jax.random.key(1), shape) for name, shape in shapes.items()}
        findings = initjax.audit(loss, tree, x).findings
        return [finding for finding in findings if finding.cause == "wrong_fan"]

    (found,) = finding()
    used = {(): ("64 instead of 256", "10 instead of 64"), (3, 3): ("768 instead of ", "3072 ")}
    first, second = used[window]
    assert f"initializer of a used fan_in {first}" in found.message
    assert re.search(f"that of b(, c and d)? used fan_in {second}", found.message)
    assert found.remedy == (
        "Pass the layout of a kernel (out, in) to the initializer: in_axis=1, out_axis=0."
    )
    assert not finding(in_axis=1, out_axis=0)


@pytest.mark.parametrize(
    ("scale", "dtype"), [(0.01, np.float32), (2.0, np.float32), (0.3, jnp.bfloat16)], ids=str
)
def test_a_draw_of_uniform_from_zero_is_named(scale, dtype):
    def message(kernel):
        def loss(p, x):
            return jnp.square(jnp.tanh(x.astype(dtype) @ p["in"]) @ p["out"]).mean()

        given = {"in": jnp.asarray(kernel, dtype), "out": jnp.asarray(normal(5, 40, 3), dtype)}
        (found,) = (f for f in initjax.audit(loss, given, X).findings if f.cause == "not_centered")
        return found.message

    drawn = initjax.uniform(scale)(jax.random.key(0), (INPUTS, 40))
    assert f"drawn by uniform({scale:g}), which is U[0, {scale:g}) in JAX" in message(drawn)
    random = np.random.default_rng(0)
    for other in (
        np.abs(random.normal(size=drawn.shape)),
        random.exponential(size=drawn.shape),
        random.uniform(0.2, 1, drawn.shape),
        random.uniform(-0.2, 1, drawn.shape),
        random.beta(2, 2, drawn.shape),
    ):
        assert "by uniform(" not in message(scale * other)
    offset = message(scale * random.uniform(0.2, 1, drawn.shape))
    assert "look drawn from random_uniform(" in offset


def test_any_number_of_readouts_may_start_at_zero():
    def actor_critic(p, x):
        h = jnp.tanh(x @ p["in"])
        return cross_entropy(h @ p["actor"]) + square(h @ p["critic"] - 1)

    tree = {"in": normal(1, INPUTS, 32), "actor": np.zeros((32, CLASSES), np.float32)}
    assert audited(actor_critic, {**tree, "critic": np.zeros((32, 1), np.float32)}, X) == []

    def regression(p, x):
        h = jnp.tanh(x @ p["in"])
        return square(h @ p["one"] - 1) + square(h @ p["other"] + 1)

    heads = np.zeros((2, 32, 1), np.float32)
    tree = {"in": normal(1, INPUTS, 32), "one": heads[0], "other": heads[1]}
    assert audited(regression, tree, X) == []


def test_a_gate_may_start_at_zero():
    """As adaLN-zero has it: what conditions a block opens it from nothing."""

    def loss(p, x, condition):
        h = x @ p["in"]
        gate = jax.nn.silu(condition @ p["condition"]) @ p["gate"]
        return square((h + gate * (jax.nn.relu(h @ p["up"]) @ p["down"])) @ p["out"] - 1)

    shapes = {"in": (INPUTS, 32), "condition": (INPUTS, 32), "up": (32, 64), "down": (64, 32)}
    tree = {name: normal(number, *shape) for number, (name, shape) in enumerate(shapes.items())}
    tree |= {"gate": np.zeros((32, 32), np.float32), "out": normal(9, 32, 4)}
    assert "zero" not in dict(audited(loss, tree, X, X[::-1]))


@pytest.mark.parametrize(("activation", "level"), [(jnp.tanh, "warning"), (jax.nn.relu, "failure")])
def test_a_hidden_kernel_of_zeros_is_a_failure_where_it_cannot_learn(activation, level):
    def loss(p, x):
        return cross_entropy(activation(x @ p["in"]) @ p["out"])

    tree = {"in": np.zeros((INPUTS, 32), np.float32), "out": normal(1, 32, CLASSES)}
    (finding,) = Model(loss, tree, X)(tree, X).findings
    assert (finding.cause, finding.level, finding.layers) == ("zero", level, ("in",))
    gradient = jax.grad(loss)(tree, X)["in"]
    assert (np.linalg.matrix_rank(gradient) > 1) == (level == "warning")


def test_a_mean_of_weights_by_chance_is_no_fault():
    def loss(p, x):
        return square(jax.nn.relu(x @ p["in"]) @ p["out"])

    model = Model(loss, {"in": normal(1, INPUTS, 32), "out": normal(2, 32, 1)}, X)
    for seed in range(40):
        tree = {"in": normal(seed, INPUTS, 32), "out": normal(seed + 99, 32, 1)}
        assert causes(model(tree, X)) == []
    averages = {"in": np.eye(INPUTS, 32, dtype=np.float32) + 0.01, "out": normal(2, 32, 1)}
    assert "not_centered" not in dict(causes(model(averages, X)))

    def convex(p, x):  # in its input, as its kernels are positive
        return square(jax.nn.relu(x @ jax.nn.softplus(p["in"])) @ p["out"])

    assert "not_centered" not in dict(audited(convex, averages, X))


def test_copies_are_found_among_kernels_that_learn():
    """A target network is a copy on purpose, and a table of constants is no draw."""

    def network(p, x):
        return jax.nn.relu(x @ p["in"]) @ p["out"]

    def loss(p, x):
        target = network(jax.lax.stop_gradient(p["target"]), x[::-1]).max(-1)
        return square(network(p["online"], x)[:, 0] - target) + square(p["tables"][0])

    kernels = {"in": normal(1, INPUTS, 32), "out": normal(2, 32, 4)}
    tables = [np.log(np.arange(1.0, 65, dtype=np.float32)).reshape(8, 8)] * 2
    tree = {"online": kernels, "target": dict(kernels), "tables": tables}
    model = Model(loss, tree, X)
    assert "duplicate" not in dict(causes(model(tree, X)))
    kernels["out"] = kernels["in"][:, :4]
    assert ("duplicate", "warning") not in causes(model(tree, X))
    kernels["out"] = kernels["in"].reshape(-1)[:128].reshape(32, 4)
    (finding,) = [f for f in model(tree, X).findings if f.cause == "duplicate"]
    assert finding.layers == ("online/in", "online/out")


def test_copies_below_a_readout_of_zeros_are_found():
    drawn = params(stack_kernel=lambda k: with_value(k, 3, k[7]), out_kernel=np.zeros_like)
    assert causes(tanh(drawn)) == [("duplicate", "warning")]


def test_copies_are_grouped_by_their_direction():
    rng = np.random.default_rng(0)
    drawn = [row.astype(np.float32) for row in rng.normal(size=(2000, 4096))]
    drawn += [-2 * drawn[7], drawn[7][:100] + 1, drawn[1999][:64], drawn[3][:31]]
    drawn += [np.zeros(64, np.float32), np.ones(64, np.float32)]
    assert copies(drawn) == [[7, 2000, 2001], [1999, 2002]]


def test_a_tied_embedding_and_a_structured_kernel_have_no_wrong_fan():
    tokens = np.arange(256).reshape(16, 16) % 5000

    def tied(p, tokens):
        h = p["table"][tokens] @ p["hidden"]
        return -jax.nn.log_softmax(50 * h @ p["table"].T).mean()

    table = 0.02 * np.random.default_rng(1).normal(size=(5000, 64)).astype(np.float32)
    found = audited(tied, {"table": table, "hidden": normal(2, 64, 64)}, tokens)
    assert "wrong_fan" not in dict(found)

    def convolved(p, x):
        z = jax.lax.conv_general_dilated(x, p["in"], (2, 2), "SAME",
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
        return square(z.mean((1, 2)) @ p["out"])

    kernel = initjax.delta_orthogonal()(jax.random.key(0), (7, 7, 3, 64))
    images = np.random.default_rng(2).normal(size=(16, 14, 14, 3)).astype(np.float32)
    found = audited(convolved, {"in": kernel, "out": normal(3, 64, 4)}, images)
    assert "wrong_fan" not in dict(found)


def test_infinite_numbers_in_a_mask_count_only_if_they_have_an_effect():
    def loss(p, x, mask):
        attention = jax.nn.softmax(x @ p["in"] + mask + jax.lax.stop_gradient(p["mask"]))
        return square(attention @ p["out"])

    tree = {"in": normal(1, INPUTS, 16), "out": normal(2, 16, 4)}
    none, mask = np.zeros(16, np.float32), np.where(np.arange(16) < 8, -np.inf, 0)
    mask = mask.astype(np.float32)
    model = Model(loss, {**tree, "mask": none}, X, none)
    assert "not_finite" not in dict(causes(model({**tree, "mask": none}, X, mask)))
    assert "not_finite" not in dict(causes(model({**tree, "mask": mask}, X, none)))
    for inputs, masks in ((X, np.full(16, -np.inf, np.float32)), (X, with_value(none, 0, np.nan))):
        (finding,) = model({**tree, "mask": none}, inputs, masks).findings
        assert (finding.cause, finding.layers) == ("not_finite", ("batch[1]",))


@pytest.mark.parametrize("batched", [False, True])
def test_a_member_at_fault_is_found_among_healthy_ones(batched):
    """Networks side by side, under vmap, of one input or each of its own."""

    def member(p, x):
        return cross_entropy(jax.nn.relu(x @ p["in"]) @ p["out"])

    def loss(p, x):
        return jax.vmap(member, (0, 0 if batched else None))(p, x).mean()

    rng = np.random.default_rng(0)
    tree = {
        "in": rng.normal(0, (2 / INPUTS) ** 0.5, (5, INPUTS, 32)).astype(np.float32),
        "out": rng.normal(0, 1 / 32**0.5, (5, 32, CLASSES)).astype(np.float32),
    }
    x = rng.normal(size=(5, *X.shape)).astype(np.float32) if batched else X
    model = Model(loss, tree, x)
    assert causes(model(tree, x)) == []
    for fault, cause in ((0 * tree["in"][2], "zero"), (0 * tree["in"][2] + 0.1, "symmetry")):
        broken = {**tree, "in": with_value(tree["in"], 2, fault)}
        (finding, *_) = model(broken, x).findings
        assert (finding.cause, finding.layers) == (cause, ("in",))
        assert finding.message.startswith("In one member or more, all ")
    copied = {**tree, "in": with_value(tree["in"], 2, tree["in"][4])}
    (finding,) = model(copied, x).findings
    assert (finding.cause, finding.layers) == ("duplicate", ("in[2]", "in[4]"))
    fixed, repair = initjax.fix(loss, copied, x, key=jax.random.key(0))
    assert repair.verdict == "ok"
    gram = np.einsum("mio,mjo->mij", fixed["in"], fixed["in"])
    for each in gram:  # orthogonal by itself
        np.testing.assert_allclose(each, each[0, 0] * np.eye(INPUTS), atol=1e-4)


@pytest.mark.parametrize(("kernel", "found"), [("out", False), ("in", True)])
def test_a_mean_of_the_weights_of_logits_is_no_fault(kernel, found):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "in": initjax.he_normal()(keys[0], (16, 64)),
        "out": initjax.lecun_normal()(keys[1], (64, 10)),
    }
    params[kernel] = jax.random.uniform(keys[2], params[kernel].shape) / 2
    x = jax.random.normal(keys[3], (128, 16))

    def loss_fn(p, x):
        log = jax.nn.log_softmax(jax.nn.relu(x @ p["in"]) @ p["out"])
        return -log[:, 0].mean()

    causes = [finding.cause for finding in initjax.audit(loss_fn, params, x).findings]
    assert ("not_centered" in causes) == found and ("output_scale" not in causes or found)
