import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import initjax
from initjax import Change, Repair

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (256, 24))
LABELS = jax.random.randint(jax.random.key(2), (256,), 0, 10)


def cross_entropy(logits, labels=LABELS):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def perceptron(activation, depth, width=32, stddev=0.3, bias=0.0):
    """Its loss and parameters; the pre-activations of its hidden layers."""
    keys = jax.random.split(KEY, 2 * depth + 1)
    sizes = [24, *[width] * depth, 10]
    params = [
        {
            "kernel": stddev * jax.random.normal(keys[n], (sizes[n], sizes[n + 1])),
            "bias": bias * jax.random.normal(keys[depth + n], (sizes[n + 1],)),
        }
        for n in range(depth + 1)
    ]

    def hidden(params, x):
        found = []
        for layer in params[:-1]:
            z = x @ layer["kernel"] + layer["bias"]
            found.append(z)
            x = activation(z)
        return found, x @ params[-1]["kernel"] + params[-1]["bias"]

    return (lambda params, x: cross_entropy(hidden(params, x)[1])), params, hidden


@pytest.mark.parametrize("stddev", [0.01, 3.0])
@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_every_layer_gets_unit_variance_in_one_pass(stddev, bias):
    loss_fn, params, hidden = perceptron(jax.nn.relu, 6, stddev=stddev, bias=bias)
    fixed, repair = initjax.fix(loss_fn, params, X)
    stddevs = [float(z.std()) for z in hidden(fixed, X)[0]]
    np.testing.assert_allclose(stddevs, 1, atol=1e-5)
    assert [change.name for change in repair.changes][:2] == ["0/kernel", "1/kernel"]
    for before, after in zip(params, fixed, strict=True):
        np.testing.assert_array_equal(after["bias"], before["bias"])
        ratio = after["kernel"] / before["kernel"]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_each_layer_stacked_by_a_loop_gets_its_own_factor():
    scales = jnp.array([1, 2, 0.1, 5, 0.3])[:, None, None]
    params = {"loop": scales * jax.random.normal(KEY, (5, 24, 24)), "out": jnp.eye(24)}

    def signals(params, x):
        def turn(x, kernel):
            z = x @ kernel
            return jax.nn.relu(z), z.std()

        return jax.lax.scan(jax.checkpoint(turn), x, params["loop"])

    def loss_fn(params, x):
        return (signals(params, x)[0] @ params["out"]).mean()

    fixed, repair = initjax.fix(loss_fn, params, X, method="variance")
    (change,) = repair.changes
    assert change.name == "loop" and len(change.factors) == 5
    np.testing.assert_allclose(signals(fixed, X)[1], 1, atol=1e-5)


def test_gradients_keep_their_norm_in_chains_too_long_for_unit_variance():
    loss_fn, params, _ = perceptron(jnp.tanh, 40, width=128, stddev=0.2)
    _, repair = initjax.fix(loss_fn, params, X)
    assert repair.before.verdict == "failure" and repair.after.verdict == "ok"
    assert "chi_1 = 1" in repair.target
    assert 0.1 < repair.after.network.gradient_growth < 10
    ratios = [layer.predicted_gradient_ratio for layer in repair.after.layers[:-2]]
    np.testing.assert_allclose(ratios, 1, atol=0.25)


def test_ends_of_branches_are_scaled_down_and_never_up():
    def init(scale):
        keys = jax.random.split(KEY, 9)
        return {
            "in": jax.random.normal(keys[8], (24, 32)) / 24**0.5,
            **{f"a{n}": jax.random.normal(keys[n], (32, 32)) / 4 for n in range(4)},
            **{f"b{n}": scale * jax.random.normal(keys[4 + n], (32, 32)) for n in range(4)},
        }

    def ends(params, x):
        x, found = x @ params["in"], []
        for n in range(4):
            found.append(jax.nn.relu(x @ params[f"a{n}"]) @ params[f"b{n}"])
            x = x + found[-1]
        return found, jnp.square(x).mean()

    def loss_fn(params, x):
        return ends(params, x)[1]

    fixed, _ = initjax.fix(loss_fn, init(1.0), X)
    np.testing.assert_allclose([z.std() for z in ends(fixed, X)[0]], 0.5, atol=1e-5)
    small = init(0.01)
    fixed, repair = initjax.fix(loss_fn, small, X, method="variance")
    np.testing.assert_array_equal(fixed["b2"], small["b2"])
    zero = init(0.0)
    fixed, repair = initjax.fix(loss_fn, zero, X, key=KEY, method="variance")
    np.testing.assert_array_equal(fixed["b1"], 0)
    assert "b1" in dict(repair.left)


def test_large_logits_are_scaled_down_and_small_ones_left_unchanged():
    loss_fn, params, hidden = perceptron(jax.nn.relu, 2, stddev=0.3)
    params[-1]["kernel"] *= 30
    fixed, _ = initjax.fix(loss_fn, params, X)
    assert float(hidden(fixed, X)[1].std()) == pytest.approx(0.45, abs=1e-5)
    assert float(loss_fn(fixed, X)) < np.log(10) + 0.15
    params[-1]["kernel"] *= 1e-4
    fixed, repair = initjax.fix(loss_fn, params, X, method="variance")
    np.testing.assert_array_equal(fixed[-1]["kernel"], params[-1]["kernel"])
    assert dict(repair.left)["2/kernel"] == "already small enough"


@pytest.mark.parametrize("fill", [0.0, 0.02])
def test_what_scaling_cannot_repair_is_redrawn_with_a_key_and_listed_without(fill):
    loss_fn, params, _ = perceptron(jax.nn.relu, 2)
    for layer in params:
        layer["kernel"] = jnp.full_like(layer["kernel"], fill)
    fixed, repair = initjax.fix(loss_fn, params, X)
    assert repair.verdict == "failure" and "key=" in dict(repair.left)["0/kernel"]
    if fill == 0:
        np.testing.assert_array_equal(fixed[0]["kernel"], 0)
    fixed, repair = initjax.fix(loss_fn, params, X, key=KEY)
    assert repair.verdict == "ok"
    again, _ = initjax.fix(loss_fn, params, X, key=KEY)
    np.testing.assert_array_equal(again[0]["kernel"], fixed[0]["kernel"])
    gram = fixed[1]["kernel"].T @ fixed[1]["kernel"]
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(32), atol=1e-4)


def test_copies_are_redrawn_except_the_first():
    loss_fn, params, _ = perceptron(jax.nn.relu, 3)
    params[2]["kernel"] = params[1]["kernel"]
    fixed, repair = initjax.fix(loss_fn, params, X, key=KEY)
    assert [f.cause for f in repair.before.findings] == ["duplicate"] and repair.verdict == "ok"
    ratio = fixed[1]["kernel"] / params[1]["kernel"]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_biases_that_kill_units_are_cleared():
    loss_fn, params, _ = perceptron(jax.nn.relu, 2, width=64)
    params[0]["bias"] = jnp.where(jnp.arange(64) % 2 == 0, -30.0, 0.0)
    fixed, repair = initjax.fix(loss_fn, params, X)
    assert "dead" in [f.cause for f in repair.before.findings]
    np.testing.assert_array_equal(fixed[0]["bias"], 0)
    assert repair.verdict == "ok"


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 16)(tokens)
        x = jnp.asarray(nn.RNN(nn.SimpleCell(16))(x))[:, -1]
        x = nn.LayerNorm()(nn.Dense(16)(x))
        return nn.Dense(10)(nn.relu(x))


def test_layers_that_must_not_be_scaled_are_left_unchanged_with_a_reason():
    tokens = jax.random.randint(KEY, (64, 5), 0, 11)
    model = Recurrent()
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(KEY, tokens))
    loss_fn = lambda params, tokens: cross_entropy(model.apply(params, tokens), LABELS[:64])  # noqa: E731
    fixed, repair = initjax.fix(loss_fn, params, tokens)
    reasons = dict(repair.left)
    assert "embedding" in reasons["params/Embed_0/embedding"]
    assert "every iteration" in reasons["params/SimpleCell_0/h/kernel"]
    assert "normalized" in reasons["params/Dense_0/kernel"]
    np.testing.assert_array_equal(
        fixed["params"]["Dense_0"]["kernel"], params["params"]["Dense_0"]["kernel"]
    )
    text = str(repair)
    assert "left unchanged" in text and max(map(len, text.splitlines())) <= 100


def test_every_parameter_that_is_left_unchanged_has_a_reason():
    def loss_fn(params, x):
        h = jax.nn.relu(x @ params["in"])
        h = jax.nn.relu(jax.nn.relu(h @ params["shared"]) @ params["shared"])
        h = jax.nn.relu(h @ jnp.tanh(params["computed"]))
        h = jax.nn.relu(h @ params["one"] + x @ params["other"])
        return jnp.square(h @ params["out"] - 1).mean()

    names = ("in", "shared", "computed", "one", "other", "out")
    keys = jax.random.split(KEY, len(names))
    params = {name: jax.random.normal(key, (24, 24)) for name, key in zip(names, keys, strict=True)}
    fixed, repair = initjax.fix(loss_fn, params, X)
    reasons = dict(repair.left)
    assert "several layers" in reasons["shared"]
    assert "computed" in reasons["computed"]
    assert "added" in reasons["one"] and reasons["one"] == reasons["other"]
    assert "last layer" in reasons["out"]
    assert [change.name for change in repair.changes] == ["in"]
    for name in names[1:]:
        np.testing.assert_array_equal(fixed[name], params[name])


def test_a_tree_that_is_one_array_is_called_params():
    def loss_fn(kernel, x):
        return cross_entropy(30 * x @ kernel)

    kernel = jax.random.normal(KEY, (24, 10))
    fixed, repair = initjax.fix(loss_fn, kernel, X)
    assert [change.name for change in repair.changes] == ["params"]
    assert float((30 * X @ fixed).std()) == pytest.approx(0.45, abs=1e-5)


def test_modules_keep_their_type_dtype_and_other_content():
    model = nnx.Sequential(
        nnx.Linear(24, 32, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16),
        nnx.relu,
        nnx.Linear(32, 10, rngs=nnx.Rngs(1)),
    )
    graph, state = nnx.split(model)
    fixed, _ = initjax.fix(
        lambda state, x: cross_entropy(nnx.merge(graph, state)(x)), state, X, method="variance"
    )
    assert jax.tree.structure(fixed) == jax.tree.structure(state)
    first = nnx.merge(graph, fixed).layers[0]
    assert isinstance(first, nnx.Linear)
    assert first.kernel.get_value().dtype == jnp.bfloat16
    assert float(first(X).std()) == pytest.approx(1, abs=0.02)
    network = eqx.nn.MLP(24, 10, 32, 2, key=KEY)
    fixed, repair = initjax.fix(
        lambda network, x: cross_entropy(jax.vmap(network)(x)), network, X, method="variance"
    )
    assert jax.tree.structure(fixed) == jax.tree.structure(network)
    assert fixed.activation is network.activation
    pre_activations = jax.vmap(fixed.layers[0])(X)
    assert float(pre_activations.std()) == pytest.approx(1, abs=1e-5)
    assert isinstance(repair, Repair)
    assert repair.changes and all(isinstance(change, Change) for change in repair.changes)


def test_units_are_scaled_and_centered_one_by_one():
    def convolve(params, x):
        kernel = params["kernel"]
        z = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME",
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
        return z + params["bias"]

    def loss_fn(params, x):
        hidden = jax.nn.relu(convolve(params, x)).reshape(len(x), -1)
        heads = jnp.einsum("bi,ihd->bhd", hidden, params["heads"])
        return jnp.square(jnp.tanh(heads + params["shift"]) @ params["out"]).mean()

    keys = jax.random.split(KEY, 5)
    params = {
        "kernel": jax.random.normal(keys[0], (3, 3, 2, 6)),
        "bias": jax.random.normal(keys[1], (6,)),
        "heads": jax.random.normal(keys[2], (96, 3, 5)),
        "shift": jnp.ones((3, 5)),
        "out": jax.random.normal(keys[3], (5, 1)),
    }
    images = jax.random.normal(keys[4], (128, 4, 4, 2))
    fixed, repair = initjax.fix(loss_fn, params, images, method="units")
    z = convolve(fixed, images)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1, atol=1e-4)
    hidden = jax.nn.relu(z).reshape(128, -1)
    heads = jnp.einsum("bi,ihd->bhd", hidden, fixed["heads"]) + fixed["shift"]
    np.testing.assert_allclose(heads.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(heads.std(0), 1, atol=1e-4)
    assert "1.47" in repair.warning


def test_learned_scales_lower_the_loss_after_the_first_step():
    loss_fn, params, _ = perceptron(jax.nn.relu, 2, stddev=1.0)
    optimizer = optax.sgd(0.1)
    fixed, repair = initjax.fix(loss_fn, params, X, method="gradient", optimizer=optimizer)

    def after(params):
        updates, _ = optimizer.update(jax.grad(loss_fn)(params, X), optimizer.init(params))
        return float(loss_fn(optax.apply_updates(params, updates), X))

    assert after(fixed) < after(params) - 0.05
    assert "this batch" in repair.warning
    with pytest.raises(ValueError, match="needs an optimizer"):
        initjax.fix(loss_fn, params, X, method="gradient")


def test_parameters_that_are_not_finite_or_already_right_are_left_unchanged():
    loss_fn, params, _ = perceptron(jax.nn.relu, 1)
    fixed, _ = initjax.fix(loss_fn, params, X, method="variance")
    again, repair = initjax.fix(loss_fn, fixed, X, method="variance")
    assert dict(repair.left)["0/kernel"] == "already right"
    np.testing.assert_array_equal(again[0]["kernel"], fixed[0]["kernel"])
    params[0]["kernel"] = params[0]["kernel"].at[0, 0].set(jnp.nan)
    fixed, repair = initjax.fix(loss_fn, params, X)
    assert not repair.changes and repair.verdict == "failure"
    np.testing.assert_array_equal(fixed[1]["kernel"], params[1]["kernel"])


def test_a_healthy_network_is_changed_only_by_a_method_that_is_named():
    loss_fn, params, hidden = perceptron(jax.nn.relu, 2, stddev=0.25)
    same, repair = initjax.fix(loss_fn, params, X, key=KEY)
    assert repair.verdict == "ok" and repair.before is repair.after
    assert not repair.changes and not repair.left
    assert "found nothing to repair, so nothing was changed" in " ".join(str(repair).split())
    jax.tree.map(np.testing.assert_array_equal, same, params)
    fixed, repair = initjax.fix(loss_fn, params, X, method="variance")
    assert repair.before.verdict == "ok" and repair.changes
    np.testing.assert_allclose([z.std() for z in hidden(fixed, X)[0]], 1, atol=1e-5)


def _sum(params, x):
    return jnp.square(params["b"]).sum()


def _without_parameters(params, x):
    return jnp.square(x).mean()


def _number(params, x):
    return 1.0


def _scaled(params, x):
    return jnp.square(x * params["b"]).mean()


def _without_a_batch(params, x):
    return jnp.square(params["b"] @ params["b"]).mean()


def _complex(params, x):
    return jnp.abs(x @ (1j * params["b"])).mean()


def _of_integers(params, x):
    return jnp.square(x @ params["n"].astype(jnp.float32)).mean() + params["b"].sum()


WITHOUT_LAYERS = (
    _sum, _without_parameters, _number, _scaled, _without_a_batch, _complex, _of_integers
)  # fmt: skip


@pytest.mark.parametrize("loss_fn", WITHOUT_LAYERS)
def test_without_layers_there_is_nothing_to_repair(loss_fn):
    params = {"b": jnp.ones(24), "n": jnp.ones((24, 2), int)}
    for method in ("variance", "units", "gradient", None):
        same, repair = initjax.fix(
            loss_fn, params, X, key=KEY, method=method, optimizer=optax.sgd(0.1)
        )
        assert "no layer was found" in repair.target and not repair.changes
        assert "no_layers" in {finding.cause for finding in repair.after.findings}
        jax.tree.map(np.testing.assert_array_equal, same, params)


def _rows(params, tokens):
    return jnp.square(params["rows"][tokens]).mean()


def _one_layer(params, x):
    return jnp.square(x @ params["w"]).mean()


def _unused(params, x):
    return jnp.square(x @ params["w"] - 1).mean()


TOKENS = jnp.arange(64) % 9
UNCHANGED = {
    "only an embedding": (_rows, {"rows": jax.random.normal(KEY, (9, 4))}, TOKENS),
    "only an output": (_one_layer, {"w": jnp.eye(24)}, X),
    "one example": (_one_layer, {"w": jnp.eye(24)}, X[:1]),
    "no axis of examples": (_one_layer, {"w": jnp.eye(24)}, X[0]),
    "an unused parameter": (_unused, {"w": jnp.eye(24), "v": jnp.ones((0, 3))}, X),
}


@pytest.mark.parametrize(("loss_fn", "params", "x"), UNCHANGED.values(), ids=UNCHANGED)
def test_what_no_scale_can_repair_is_left_as_it_is(loss_fn, params, x):
    for method in ("variance", "units", None):
        same, repair = initjax.fix(loss_fn, params, x, method=method, optimizer=optax.sgd(0.1))
        assert not repair.changes and bool(repair.left) == (method is not None)
        jax.tree.map(np.testing.assert_array_equal, same, params)


def actor_and_critic(params, x):
    h = jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"])
    return jnp.square(h @ params["small policy"]).mean() + jnp.square(h @ params["c"] - 1).mean()


def highway(params, x):
    for n in "ab":
        gate = jax.nn.sigmoid(x @ params[f"small {n}"] - 2)
        x = gate * jnp.tanh(x @ params[n]) + (1 - gate) * x
    return cross_entropy(x @ params["c"])


def modulated(params, x):
    condition, h = jax.nn.silu(x @ params["b"]), x @ params["a"]
    scale, gate = condition @ params["small scale"], condition @ params["small gate"]
    normal = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
    h = h + jnp.tanh(normal * (1 + scale) @ params["c"]) * gate
    return cross_entropy(h @ params["d"])


def coupling(params, x):
    one, other = jnp.split(x, 2, axis=-1)
    h = jnp.tanh(jnp.concatenate([one, one], -1) @ params["a"])
    scale, shift = jnp.split(jnp.tanh(h @ params["b"]) @ params["small"], 2, axis=-1)
    return jnp.square(other * jnp.exp(scale) + shift).mean() - scale.mean()


SMALL = {
    actor_and_critic: ("a", "b", "c", "small policy"),
    highway: ("a", "b", "c", "small a", "small b"),
    modulated: ("a", "b", "c", "d", "small scale", "small gate"),
    coupling: ("a", "b", "small"),
}


@pytest.mark.parametrize("stddev", [0.01, 0.0])
@pytest.mark.parametrize(("loss_fn", "names"), SMALL.items())
def test_no_method_raises_what_is_small_on_purpose(loss_fn, names, stddev):
    params = {
        name: jax.random.normal(key, (24, 24)) * (stddev if "small" in name else 1) / 24**0.5
        for name, key in zip(names, jax.random.split(KEY, len(names)), strict=True)
    }
    assert initjax.audit(loss_fn, params, X).verdict == "ok"
    for method in ("variance", "units", "gradient"):
        fixed, repair = initjax.fix(
            loss_fn, params, X, key=KEY, method=method, optimizer=optax.sgd(0.1)
        )
        assert repair.changes
        for name, leaf in params.items():
            if "small" in name:
                assert jnp.linalg.norm(fixed[name]) <= jnp.linalg.norm(leaf) * 1.0001, name


def test_a_small_layer_before_a_pool_is_raised():
    def loss_fn(params, x):
        h = jax.nn.relu(x @ params["a"]).reshape(-1, 4, 32).max(1)
        return cross_entropy(jax.nn.relu(h @ params["b"]) @ params["c"], LABELS[:64])

    sizes = {"a": (24, 32), "b": (32, 32), "c": (32, 10)}
    params = {name: initjax.he_normal()(KEY, shape) for name, shape in sizes.items()}
    params["a"] *= 1e-4
    fixed, _ = initjax.fix(loss_fn, params, X, method="variance")
    np.testing.assert_allclose((X @ fixed["a"]).std(), 1, rtol=1e-4)


def test_layers_behind_a_stop_gradient_are_left_as_they_are():
    def loss_fn(params, x):
        h = jax.nn.relu(x @ params["a"])
        return cross_entropy(jax.lax.stop_gradient(h) @ params["b"])

    params = {"a": 0.3 * X[:24].T[:, :24], "b": jnp.eye(24, 10)}
    same, repair = initjax.fix(loss_fn, params, X)
    assert [finding.cause for finding in repair.before.findings] == ["no_gradient"]
    assert same is params and "Remove stop_gradient" in repair.target


def test_an_unknown_method_raises_an_error():
    loss_fn, params, _ = perceptron(jax.nn.relu, 1)
    with pytest.raises(ValueError, match="method"):
        initjax.fix(loss_fn, params, X, method="lsuv")  # pyright: ignore


@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_the_target_depends_on_the_program_and_not_on_broken_parameters(scale):
    loss, params, _ = perceptron(jnp.tanh, 16)
    broken = jax.tree.map(lambda leaf: scale * leaf, params)
    _, repair = initjax.fix(loss, broken, X, key=KEY)
    assert repair.target.startswith("chi_1 = 1")


def test_kernels_whose_weights_have_a_mean_are_centered():
    loss_fn, params, hidden = perceptron(jax.nn.relu, 3)
    params[1]["kernel"] = jnp.abs(params[1]["kernel"])
    fixed, repair = initjax.fix(loss_fn, params, X)
    assert [finding.cause for finding in repair.before.findings] == ["not_centered"]
    assert abs(float(fixed[1]["kernel"].mean())) < 1e-6 and repair.verdict == "ok"
    np.testing.assert_allclose([float(z.std()) for z in hidden(fixed, X)[0]], 1, atol=1e-5)
    spread = fixed[1]["kernel"] / (params[1]["kernel"] - params[1]["kernel"].mean())
    np.testing.assert_allclose(spread, spread[0, 0], rtol=1e-3)


def test_one_of_each_group_of_copies_is_kept():
    loss_fn, params, _ = perceptron(jax.nn.relu, 5)
    for one, other in ((1, 3), (2, 4)):
        params[other]["kernel"] = params[one]["kernel"]
    _, repair = initjax.fix(loss_fn, params, X, key=KEY)
    drawn = [change.name for change in repair.changes if "redrawn" in change.what]
    assert drawn == ["3/kernel", "4/kernel"] and repair.verdict == "ok"


@pytest.mark.parametrize("method", ["variance", "units", "gradient"])
def test_numpy_float64_stays_float64(method):
    loss_fn, params, _ = perceptron(jax.nn.relu, 3)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) * 2, params)
    params[0]["kernel"] = np.abs(params[0]["kernel"])
    params[1]["kernel"] = np.full_like(params[1]["kernel"], 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fixed, repair = initjax.fix(
            loss_fn, params, X, key=KEY, method=method, optimizer=optax.sgd(0.1)
        )
    assert {change.name for change in repair.changes} >= {"0/kernel", "1/kernel"}
    for leaf in jax.tree.leaves(fixed):
        assert isinstance(leaf, np.ndarray) and leaf.dtype == np.float64


@pytest.mark.parametrize("dropout", [False, True])
def test_the_end_of_a_residual_branch_may_be_followed_by_dropout(dropout):
    def loss(p, x, key):
        h = x
        for number in range(4):
            branch = jax.nn.relu(h @ p[number]["up"]) @ p[number]["down"] + p[number]["bias"]
            if dropout:
                mask = jax.random.bernoulli(jax.random.fold_in(key, number), 0.9, branch.shape)
                branch = jnp.where(mask, branch / 0.9, 0)
            h = h + branch
        return cross_entropy(h @ p[4])

    keys = iter(jax.random.split(KEY, 9))
    params: list = [
        {
            "up": jax.random.normal(next(keys), (24, 48)) / 24**0.5,
            "down": jax.random.normal(next(keys), (48, 24)) / 24**0.5,
            "bias": jnp.zeros(24),
        }
        for _ in range(4)
    ]
    params.append(jax.random.normal(next(keys), (24, 10)))
    _, repair = initjax.fix(loss, params, X, jax.random.key(5))
    roles = {layer.name: layer.role for layer in repair.before.layers}
    ends = [change for change in repair.changes if "end of a residual branch" in change.what]
    assert [name for name, role in roles.items() if role == "branch end"] == [
        f"{number}/down" for number in range(4)
    ]
    assert [change.name for change in ends] == [f"{number}/down" for number in range(4)]
    assert all(change.factors[0] < 1 and " to 0.5," in change.what for change in ends)


def test_a_scaled_kernel_is_not_reported_for_a_wrong_fan():
    loss_fn, params, _ = perceptron(jax.nn.relu, 2, width=96)
    wide = {"kernel": params[1]["kernel"], "bias": params[1]["bias"]}
    x = X * (2 / (24 * 0.3**2)) ** 0.5  # the second kernel then comes out as if fan_out were 24
    _, repair = initjax.fix(loss_fn, [params[0], wide, params[2]], x)
    assert "wrong_fan" not in {finding.cause for finding in repair.after.findings}


def test_a_method_that_leaves_a_failure_says_so():
    loss_fn, params, _ = perceptron(jnp.tanh, 12, stddev=5e-4)
    _, repair = initjax.fix(loss_fn, params, X, method="gradient", optimizer=optax.adam(1e-3))
    assert repair.verdict == "failure"
    assert "method='variance'" in repair.warning


@pytest.mark.parametrize("key", [0, "key", jnp.zeros(3)])
def test_a_key_that_is_not_a_prng_key_raises_an_error(key):
    loss_fn, params, _ = perceptron(jnp.tanh, 1)
    with pytest.raises(TypeError, match="key must be a PRNG key"):
        initjax.fix(loss_fn, params, X, key=key)


def test_the_input_comes_first():
    loss_fn, params, _ = perceptron(jax.nn.relu, 2)

    def of_pixels(params, x):
        return loss_fn(params, 100 * x)

    fixed, repair = initjax.fix(of_pixels, params, X)
    assert fixed is params and repair.changes == ()
    assert repair.target.startswith("none: the input comes first") and "Divide" in repair.target


def test_a_kernel_that_is_redrawn_and_scaled_is_listed_once():
    params = {
        "a": jnp.zeros((24, 32)),
        "b": jnp.full((32, 32), 0.3),
        "c": jax.random.normal(KEY, (32, 1)),
    }

    def loss_fn(params, x):
        hidden = jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"])
        return jnp.square(hidden @ params["c"] - x[:, :1]).mean()

    _, repair = initjax.fix(loss_fn, params, X, key=KEY)
    names = [change.name for change in repair.changes]
    assert sorted(names) == ["a", "b"]
    assert str(repair.changes[0]).startswith("redrawn, orthogonal (cause: zero); then times ")


def test_biases_that_outweigh_what_is_aimed_at_are_cleared_or_reported():
    loss_fn, params, hidden = perceptron(jax.nn.relu, 3, stddev=0.3, bias=10.0)
    fixed, repair = initjax.fix(loss_fn, params, X)
    np.testing.assert_allclose([float(z.std()) for z in hidden(fixed, X)[0]], 1, atol=1e-5)
    loss_fn, params, hidden = perceptron(jnp.sin, 2, stddev=0.3, bias=3.0)  # phases, on purpose
    fixed, repair = initjax.fix(loss_fn, params, X, method="variance")
    reached = float(hidden(fixed, X)[0][0].std())
    assert f"to {reached:.3g}" in repair.changes[0].what and reached > 2
    assert next(name for name, why in repair.left if "its bias alone" in why) == "0/kernel"


def test_a_router_of_few_experts_is_never_scaled_up():
    keys = jax.random.split(KEY, 5)
    params = {
        "in": 10 * jax.random.normal(keys[0], (24, 32)),
        "router": 0.1 * jax.random.normal(keys[1], (32, 4)),
        "up": jax.random.normal(keys[2], (4, 32, 64)) / 4,
        "down": jax.random.normal(keys[3], (4, 64, 32)) / 8,
        "out": jax.random.normal(keys[4], (32, 10)) / 6,
    }

    def loss_fn(params, x):
        x = jax.nn.relu(x @ params["in"])
        weights = jax.nn.softmax(x @ params["router"] / 100)
        experts = jax.nn.relu(jnp.einsum("nd,edf->nef", x, params["up"]))
        experts = jnp.einsum("nef,efd->ned", experts, params["down"])
        return cross_entropy((x + jnp.einsum("ne,ned->nd", weights, experts)) @ params["out"])

    fixed, repair = initjax.fix(loss_fn, params, X)
    assert "in" in [change.name for change in repair.changes]
    np.testing.assert_array_equal(fixed["router"], params["router"])


def test_a_network_whose_loss_has_second_derivatives_is_scaled():
    keys = jax.random.split(KEY, 4)
    sizes = (2, 32, 32, 1)
    params = [10 * jax.random.normal(keys[i], sizes[i : i + 2]) for i in range(3)]

    def network(params, x):
        for kernel in params[:-1]:
            x = jnp.tanh(x @ kernel)
        return (x @ params[-1])[0]

    def loss_fn(params, x):
        second = jax.vmap(jax.hessian(network, argnums=1), (None, 0))(params, x)
        return jnp.mean((second[:, 0, 0] + second[:, 1, 1]) ** 2)

    x = jax.random.uniform(keys[3], (256, 2), minval=-1)
    fixed, _ = initjax.fix(loss_fn, params, x)
    assert float((x @ fixed[0]).std()) == pytest.approx(1, abs=1e-5)
    assert float((jnp.tanh(x @ fixed[0]) @ fixed[1]).std()) == pytest.approx(1, abs=1e-5)
