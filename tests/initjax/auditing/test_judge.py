"""Every cause is found in the simplest model that has it, and in no model without it."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax
from initjax._copies import copies
from initjax._flattening import paths
from initjax.auditing._judging.causes import CAUSES

DEPTH, WIDTH, CLASSES, INPUTS = 12, 64, 10, 32
X = np.random.default_rng(0).normal(size=(64, INPUTS)).astype(np.float32)
Y = np.arange(64) % CLASSES


def normal(number, *shape):
    """Of unit variance over the square root of the shape's fan-in."""
    drawn = np.random.default_rng(number).normal(size=shape) / shape[-2] ** 0.5
    return drawn.astype(np.float32)


def with_value(array, place, value):
    changed = np.array(array)
    changed[place] = value
    return changed


class Model:
    """A loss that is compiled once, and audited with many parameters."""

    def __init__(self, loss, params, *batch, optimizer=None):
        self.audit = initjax.auditor(loss, params, *batch, optimizer=optimizer)

    def __call__(self, params, *batch):
        return self.audit(params, *batch)


def causes(report):
    for finding in report.findings:
        for text in (finding.message, finding.remedy):
            assert re.fullmatch(r"[A-Z0-9].*[^.]\.", text), text  # a sentence
    return [(finding.cause, finding.level) for finding in report.findings]


def audited(loss, params, *batch):
    return causes(Model(loss, params, *batch)(params, *batch))


@functools.cache
def deep(activation):
    """A classifier of 14 layers, of which the inner ones are stacked."""

    def turn(z, layer):
        return activation(z) @ layer["kernel"] + layer["bias"], None

    def loss(p, x, y):
        z, _ = jax.lax.scan(turn, x @ p["in"]["kernel"] + p["in"]["bias"], p["stack"])
        logits = activation(z) @ p["out"]["kernel"] + p["out"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return Model(loss, params(), X, Y, optimizer=optax.sgd(0.1))


def params(gain=1.05, biases=0.0, **changes):
    """Parameters of that, critical for tanh; with changes to one leaf each."""
    tree = {
        "in": {"kernel": normal(1, INPUTS, WIDTH), "bias": np.zeros(WIDTH, np.float32)},
        "stack": {
            "kernel": normal(2, DEPTH, WIDTH, WIDTH) * gain**0.5,
            "bias": normal(3, DEPTH, 1, WIDTH)[:, 0] * biases**0.5,
        },
        "out": {"kernel": normal(4, WIDTH, CLASSES), "bias": np.zeros(CLASSES, np.float32)},
    }
    for name, change in changes.items():
        layer, leaf = name.split("_")
        tree[layer][leaf] = change(tree[layer][leaf])
    return tree


def tanh(tree, x=X):
    return deep(jnp.tanh)(tree, x, Y)


def relu(tree, x=X):
    return deep(jax.nn.relu)(tree, x, Y)


SHIFT = normal(5, 1, INPUTS)


def sine(tree, x=X):
    return deep(jnp.sin)(tree, x, Y)


def identity(tree, x=X):
    return deep(jnp.asarray)(tree, x, Y)


ALIKE = X / 6 + SHIFT  # examples that differ little


def test_a_network_on_the_critical_line_is_healthy():
    report = tanh(params())
    assert causes(report) == []
    assert report.verdict == "ok"
    assert causes(relu(params(gain=2.0))) == []


def constant(leaf):
    return np.full_like(leaf, 0.1)


def test_a_large_readout_does_not_make_gradients_explode():
    report = relu(params(gain=2.0, out_kernel=lambda k: 60 * k))
    assert causes(report) == [("output_scale", "failure")]


def test_signals_that_explode_name_the_kernels_that_make_them_grow():
    tree = {str(n): normal(n, 32, 32) * (10 if n else 1) for n in range(4)}
    tree["4"] = normal(4, 32, CLASSES)

    def loss(p, x, y):  # the pools end every chain of predictions
        for n in range(4):
            x = jax.nn.relu(x @ p[str(n)]).reshape(-1, 2, 32).max(1)
        return optax.softmax_cross_entropy_with_integer_labels(x @ p["4"], y).mean()

    (found,) = initjax.audit(loss, tree, normal(9, 512, 32) * 512**0.5 * 4, Y[:32]).findings
    assert found.cause == "exploding" and found.layers == ("1", "2", "3")
    assert "1, 2 and 3 make signals grow, with a median gain of" in found.message


@pytest.mark.parametrize(
    ("cause", "level", "network", "tree", "x"),
    [
        ("not_finite", "failure", tanh, params(out_bias=lambda b: with_value(b, 0, np.nan)), X),
        ("not_finite", "failure", tanh, params(), with_value(X, 0, np.inf)),
        ("not_finite", "failure", relu, params(gain=1e12), X),
        ("zero", "failure", tanh, params(stack_kernel=lambda k: with_value(k, 3, 0)), X),
        ("zero", "failure", tanh, jax.tree.map(np.zeros_like, params()), X),
        ("symmetry", "warning", tanh, params(stack_kernel=lambda k: with_value(k, 3, 0.1)), X),
        ("symmetry", "failure", tanh, jax.tree.map(constant, params()), X),
        ("duplicate", "warning", tanh, params(stack_kernel=lambda k: with_value(k, 3, -k[7])), X),
        ("input_scale", "warning", relu, params(gain=2.0), 10 * X),
        ("input_scale", "failure", tanh, params(), 255 * X),
        ("input_scale", "failure", relu, params(gain=2.0), 255 * X),
        ("input_scale", "warning", tanh, params(), X / 100),
        ("input_offset", "warning", tanh, params(), X / 10 + SHIFT),
        ("input_offset", "failure", relu, params(gain=2.0), X / 100 + SHIFT),
        ("first_layer", "warning", sine, params(in_kernel=lambda k: k / 50), X),
        ("no_activation", "warning", identity, params(gain=1.0), X),
        ("not_centered", "warning", relu, params(gain=2.0, in_kernel=lambda k: k + 0.1), X),
        ("not_centered", "failure", relu, params(gain=2.0, stack_kernel=np.abs), X),
        ("vanishing", "warning", tanh, params(gain=0.5), X),
        ("vanishing", "failure", tanh, params(gain=0.2), X),
        ("exploding", "failure", relu, params(gain=8.0), X),
        ("depth", "warning", tanh, params(biases=0.2), X),
        ("collapse", "warning", tanh, params(gain=1.0, biases=0.15), ALIKE),
        ("saturated", "warning", tanh, params(in_kernel=lambda k: 3 * k), X),
        ("saturated", "failure", tanh, params(in_kernel=lambda k: 20 * k), X),
        ("dead", "failure", relu, params(gain=2.0, stack_bias=lambda b: b - 1.0), X),
        ("output_scale", "warning", tanh, params(out_kernel=lambda k: 20 * k), X),
        ("output_scale", "failure", tanh, params(out_kernel=lambda k: 99 * k), X),
    ],
)  # fmt: skip
def test_a_fault_of_a_deep_network_is_found(cause, level, network, tree, x):
    found = causes(network(tree, x))
    assert (cause, level) in found
    if level == "warning":
        assert all(level == "warning" for _, level in found)


@pytest.mark.parametrize(
    ("cause", "network", "tree", "x"),
    [
        ("zero", tanh, params(stack_kernel=lambda k: with_value(k, 3, 0)), X),
        ("symmetry", tanh, params(stack_kernel=lambda k: with_value(k, 3, 0.1)), X),
        ("duplicate", tanh, params(stack_kernel=lambda k: with_value(k, 3, k[7])), X),
        ("not_centered", relu, params(gain=2.0, stack_kernel=np.abs, out_kernel=np.abs), X),
        ("vanishing", tanh, params(gain=0.2), X),
        ("exploding", relu, params(gain=8.0), X),
        ("input_scale", tanh, params(), 255 * X),
        ("input_offset", tanh, params(), 290 + 10 * X),
        ("output_scale", tanh, params(out_kernel=lambda k: 50 * k), X),
        ("collapse", tanh, params(gain=1.0, biases=0.15), ALIKE),
    ],
)
def test_what_follows_from_a_cause_is_not_reported(cause, network, tree, x):
    assert [found for found, _ in causes(network(tree, x))] == [cause]


def test_a_fault_beside_zeros_is_found_in_the_same_round():
    def with_zeros(stack):
        return with_value(with_value(stack, 3, 0), 7, 0.1)

    found = dict(causes(tanh(params(stack_kernel=with_zeros))))
    assert found.keys() == {"zero", "symmetry"}
    dead = params(stack_kernel=lambda k: with_value(k, 7, 0), in_bias=lambda b: b - 20, gain=2.0)
    assert dict(causes(relu(dead))).keys() == {"zero", "dead"}


def test_the_layers_at_fault_are_named_and_the_remedy_fits_them():
    (finding,) = tanh(params(stack_kernel=lambda k: with_value(k, 3, 0))).findings
    assert finding.layers == ("stack/kernel[3]",)
    assert "lecun_normal()" in finding.remedy
    (finding,) = tanh(params(stack_kernel=lambda k: with_value(k, 3, k[7]))).findings
    assert finding.layers == ("stack/kernel[3]", "stack/kernel[7]")
    assert "key" in finding.remedy
    (finding,) = tanh(params(out_bias=lambda b: b * np.nan)).findings
    assert finding.layers == ("out/bias",)
    (finding,) = relu(params(gain=8.0)).findings
    assert "he_normal()" in finding.remedy
    (finding,) = tanh(params(), 255 * X).findings
    assert finding.layers == ("in/kernel",) and " 255; " in finding.message
    (finding,) = relu(params(gain=1e12)).findings
    assert finding.layers[0] == "stack/kernel[6]" and "in/kernel" not in finding.layers


def test_a_readout_may_start_at_zero():
    assert causes(tanh(params(out_kernel=np.zeros_like))) == []


@pytest.mark.parametrize("gain", [10.0, 100.0])
def test_a_saturated_network_whose_gradients_explode_is_not_healthy(gain):
    found = [cause for cause, _ in causes(tanh(params(gain=gain)))]
    assert "saturated" in found or "exploding" in found


def test_healthy_networks_of_any_key_are_healthy():
    """In narrow networks chance makes many dead units; none of 20 may have a finding."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = jax.tree.map(
            lambda leaf, rng=rng: (leaf.std() * rng.normal(size=leaf.shape)).astype(np.float32),
            params(gain=2.0),
        )
        assert causes(relu(drawn)) == []


def square(z):
    return jnp.square(z).mean()


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


def test_residual_branches_that_add_up_are_found():
    def turn(h, block):
        return h + jax.nn.relu(h @ block["up"]) @ block["down"], None

    def loss(p, x):
        return square(jax.lax.scan(turn, x @ p["in"], p["blocks"])[0] @ p["out"])

    def tree(scale):
        return {
            "in": normal(1, INPUTS, 32),
            "blocks": {"up": normal(2, 24, 32, 64) * 2**0.5, "down": scale * normal(3, 24, 64, 32)},
            "out": normal(4, 32, 4),
        }

    model = Model(loss, tree(1.0), X)
    for scale, found in ((1.0, ("branch_scale", "failure")), (0.5, ("branch_scale", "warning"))):
        assert causes(model(tree(scale), X)) == [found]
    for scale in (24**-0.5, 0.0):  # the residual scaling, and branches that start as nothing
        assert causes(model(tree(scale), X)) == []


def test_parameters_that_do_not_affect_the_loss_are_found():
    tree = {"in": normal(1, INPUTS, 8), "lost": np.ones(3, np.float32)}
    assert audited(lambda p, x: square(x @ p["in"]), tree, X) == [("unused", "warning")]


def test_a_model_without_layers_gets_a_warning():
    tree = {"in": normal(1, INPUTS, 8)}
    assert audited(lambda p, x: square(p["in"]) + square(x), tree, X) == [("no_layers", "warning")]
    (finding,) = Model(lambda p: square(p["in"]), tree)(tree).findings
    assert "*batch" in finding.remedy


def test_a_batch_of_one_example_gets_a_warning():
    tree = {"in": normal(1, INPUTS, 8)}
    assert audited(lambda p, x: square(x @ p["in"]), tree, X[:1]) == [("batch", "warning")]


def test_a_non_finite_loss_is_distinguished_from_non_finite_layers():
    def loss(p, x):
        return square(x @ p["in"]) + jnp.log(-x.var())

    tree = {"in": normal(1, INPUTS, 8)}
    (finding,) = Model(loss, tree, X)(tree, X).findings
    assert (finding.cause, finding.level, finding.layers) == ("not_finite", "failure", ())
    assert "The loss is nan" in finding.message


def test_every_cause_has_a_test_of_its_own():
    tests = pathlib.Path(__file__).parent.glob("test_*.py")
    text = "\n".join(test.read_text() for test in tests)
    assert [cause for cause in CAUSES if f'"{cause}"' not in text] == []


def test_a_cause_hides_only_causes_that_are_judged_after_it():
    names = list(CAUSES)
    for place, cause in enumerate(CAUSES.values()):
        hidden = names[place + 1 :] if cause.hides == "everything" else cause.hides
        assert set(hidden) <= set(names[place + 1 :])
    assert CAUSES["not_finite"].explains("update") and not CAUSES["depth"].explains("update")


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
        assert "uniform(" not in message(scale * other)


def test_a_finding_tells_code_which_parameters_it_is_about():
    (finding,) = tanh(params(stack_kernel=lambda k: with_value(k, 3, k[7]))).findings
    names = paths(params())
    index = names.index("stack/kernel")
    found = [(p.index, p.path, p.slice, p.use) for p in finding.parameters]
    assert found == [(index, "stack/kernel", (3,), 1), (index, "stack/kernel", (7,), 1)]
    (finding,) = tanh(params(), with_value(X, 0, np.inf)).findings
    assert (finding.layers, finding.parameters) == (("batch[0]",), ())


def test_findings_are_sorted_by_level_and_causes_are_explained():
    copied = params(stack_kernel=lambda k: with_value(k, 3, k[7]), out_kernel=lambda k: 99 * k)
    found = tanh(copied).findings
    assert [finding.level for finding in found] == sorted(finding.level for finding in found)
    assert len(found) > 1
    assert all(CAUSES[finding.cause].meaning for finding in found)


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


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


def test_a_large_first_step_is_reported_where_it_changes_what_a_layer_computes():
    """Small kernels may take one, as the policy of PPO does, if its effect is small."""

    def loss(p, x):
        h = jnp.tanh(jnp.tanh(x @ p["one"]) @ p["two"])
        return cross_entropy(h @ p["policy"]) + square(h @ p["value"] - 1)

    tree = {"one": 0.005 * normal(1, INPUTS, 32), "two": normal(2, 32, 32)}
    tree |= {"policy": 0.005 * normal(3, 32, CLASSES), "value": normal(4, 32, 1)}
    for rate, found in ((1e-3, []), (0.1, [("update", "warning")])):
        report = Model(loss, tree, X, optimizer=optax.adam(rate))(tree, X)
        assert causes(report) == found
    assert report.findings[0].layers == ("one",)


def test_a_branch_that_a_small_scale_silences_does_not_explode():
    """What enters it gets its gradient from the stream, too. At full scale it does explode."""

    def loss(p, x):
        h = x @ p["in"]
        for block in p["blocks"]:
            h = h + p["scale"] * (jax.nn.relu(h @ block["up"]) @ block["down"])
        return cross_entropy(h @ p["out"])

    blocks = [{"up": normal(20 + i, 32, 64), "down": 8 * normal(30 + i, 64, 32)} for i in range(6)]
    tree = {"in": normal(1, INPUTS, 32), "blocks": blocks, "out": 0.1 * normal(2, 32, CLASSES)}
    model = Model(loss, {**tree, "scale": jnp.ones(32)}, X)
    for scale in (1e-6, 1e-2):
        assert causes(model({**tree, "scale": jnp.full(32, scale)}, X)) == []
    found = causes(model({**tree, "scale": jnp.ones(32)}, X))
    assert ("exploding", "failure") in found


def test_one_example_that_a_norm_amplifies_is_not_the_whole_batch():
    def loss(p, x):
        h = x @ p["in"]
        for kernel in p["hidden"]:
            h = h - h.mean(-1, keepdims=True)
            h = jax.nn.relu(h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-10) @ kernel)
        return cross_entropy(h @ p["out"])

    tree = {"in": normal(1, INPUTS, 32), "hidden": [2**0.5 * normal(2, 32, 32)]}
    tree["out"] = normal(3, 32, CLASSES)
    model = Model(loss, tree, X)
    assert causes(model(tree, with_value(X, 0, 1e-5 * X[0]))) == []
    exploding = {**tree, "in": 1e-6 * tree["in"]}
    assert ("exploding", "failure") in causes(model(exploding, X))


def test_one_feature_has_two_directions_in_which_units_are_dead_by_chance():
    def loss(p, x):
        return square(jax.nn.relu(jax.nn.relu(x @ p["in"]) @ p["hidden"] + p["bias"]) @ p["out"])

    tree = {"in": normal(1, 1, 64), "hidden": normal(2, 64, 64), "out": normal(3, 64, 1)}
    model = Model(loss, {**tree, "bias": jnp.zeros(64)}, X[:, :1])
    report = model({**tree, "bias": jnp.zeros(64)}, X[:, :1])
    assert causes(report) == [] and report.layers[1].dead > 0.15
    assert ("dead", "failure") in causes(model({**tree, "bias": jnp.full(64, -3.0)}, X[:, :1]))


def test_one_small_kernel_is_learned_first_and_two_in_a_row_are_not():
    def tree(*small):
        factors = np.where(np.isin(np.arange(DEPTH), small), 0.01, 1)
        return params(gain=2.0, stack_kernel=lambda k: k * factors[:, None, None].astype("f"))

    assert causes(relu(tree(4))) == []
    assert causes(relu(tree(4, 5))) == [("vanishing", "warning")]


@pytest.mark.parametrize(("gain", "found"), [(1e-3, []), (1e-5, [("vanishing", "warning")])])
def test_a_shallow_network_may_have_small_kernels(gain, found):
    def loss_fn(p, x):
        return jnp.square(jax.nn.relu(jax.nn.relu(x @ p[0]) @ p[1]) @ p[2] - x[:, :1]).mean()

    tree = [gain**0.5 * normal(i, *shape) for i, shape in enumerate([(16, 32), (32, 32), (32, 1)])]
    assert audited(loss_fn, tree, normal(3, 64, 16) * 8) == found


@pytest.mark.parametrize("between", ["pool", "dropout", "skip", "norm"])
def test_dead_units_are_found_whatever_follows_them(between):
    def loss(p, x, key):
        h = jax.nn.relu(x @ p["in"] + p["bias"])
        if between == "pool":
            h = h.reshape(len(h), -1, 2).max(-1).repeat(2, -1)
        elif between == "dropout":
            h = jnp.where(jax.random.bernoulli(key, 0.9, h.shape), h / 0.9, 0)
        elif between == "skip":
            h = h + x
        else:
            h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return cross_entropy(h @ p["out"])

    def tree(bias):
        return {
            "in": normal(1, INPUTS, INPUTS) * 2**0.5,
            "bias": np.full(INPUTS, bias, np.float32),
            "out": normal(2, INPUTS, CLASSES) / 2,
        }

    key = jax.random.key(0)
    model = Model(loss, tree(0), X, key)
    assert causes(model(tree(0), X, key)) == []
    assert causes(model(tree(-100), X, key)) == [("dead", "failure")]


def test_guessing_costs_the_logarithm_of_the_classes_of_one_softmax():
    def loss(p, x):
        logits = (jax.nn.relu(x @ p["in"]) @ p["out"]).reshape(-1, 3, CLASSES)
        return -jax.nn.log_softmax(logits)[:, :, 0].mean()

    tree = {"in": normal(1, INPUTS, WIDTH), "out": normal(2, WIDTH, 3 * CLASSES)}
    assert Model(loss, tree, X)(tree, X).network.expected_loss == pytest.approx(np.log(CLASSES))


def test_layers_that_no_gradient_reaches_are_found():
    def loss(p, x, gate, step):
        h = x @ p["in"]
        h = h + gate * (jnp.tanh(h @ p["up"]) @ p["down"])
        return cross_entropy(jnp.where(step > 0, jnp.round(h), h) @ p["out"])

    tree = {name: normal(number, 32, 32) for number, name in enumerate(("in", "up", "down"))}
    tree["out"] = normal(4, 32, CLASSES) / 4
    zero, one = np.float32(0), np.float32(1)
    model = Model(loss, tree, X, one, zero)
    assert causes(model(tree, X, one, one)) == [("vanishing", "failure")]
    for gate in (zero, one):  # a branch that starts as nothing is on purpose
        assert ("vanishing", "failure") not in causes(model(tree, X, gate, zero))
    closed = {**tree, "out": np.zeros_like(tree["out"])}
    assert ("vanishing", "failure") not in causes(model(closed, X, one, zero))


def test_unused_turns_of_a_loop_do_not_block_its_gradient():
    def loss(p, tokens):
        def turn(h, step):
            counts, token = step
            return jnp.where(counts, jnp.tanh(p["in"][token] + h @ p["state"]), h), None

        counted = jnp.arange(6)[:, None, None] < 4
        h, _ = jax.lax.scan(turn, jnp.zeros((64, 16)), (counted, tokens))
        return cross_entropy(h @ p["out"])

    tree = {"in": normal(1, 8, 16), "state": normal(2, 16, 16), "out": normal(3, 16, CLASSES)}
    tokens = np.random.default_rng(0).integers(8, size=(6, 64))
    assert ("vanishing", "failure") not in audited(loss, tree, tokens)


def test_a_non_finite_gradient_is_found_even_if_the_loss_is_finite():
    def loss(p, x):
        z = jnp.maximum(x @ p["in"], 1e9) - 1e9
        return jnp.sqrt(square(z)) + cross_entropy(x @ p["out"])

    tree = {"in": normal(1, INPUTS, 8), "out": normal(2, INPUTS, CLASSES)}
    model = Model(loss, tree, X)
    (finding,) = model(tree, X).findings
    assert (finding.cause, finding.layers) == ("not_finite", ("in",))
    assert "gradient at in is infinite or NaN" in finding.message


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


@pytest.mark.parametrize(
    ("units", "bias", "stream", "found"),
    [
        (64, 0.1, False, True),
        (64, None, False, False),
        (64, 0.1, True, False),
        (4, 0.1, False, False),
    ],
    ids=["hidden", "codes", "stream", "few"],
)
def test_a_softmax_between_layers_makes_gradients_vanish(units, bias, stream, found):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"first": (16, 16), "in": (16, units), "out": (units, 16)}
    params = {
        name: initjax.lecun_normal()(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    params["bias"] = jnp.full(16, bias or 0.0)
    x = jax.random.normal(keys[3], (128, 16))

    def loss_fn(p, x):
        x = x @ p["first"]
        y = jax.nn.softmax(x @ p["in"]) @ p["out"]
        y = y if bias is None else y + p["bias"]
        return jnp.square((x + y if stream else y) - 1).mean()

    findings = initjax.audit(loss_fn, params, x).findings
    messages = [finding.message for finding in findings if finding.cause == "vanishing"]
    assert [f"softmax over its {units} units" in message for message in messages] == [True] * found


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
