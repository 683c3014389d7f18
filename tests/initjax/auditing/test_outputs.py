"""What is found between the last layer and the loss."""

import functools
import math

import jax
import jax.numpy as jnp
import optax
import pytest

import initjax
from initjax.auditing._reading.trace import trace

_OTHERS = ("unused", "vanishing")  # tanh(z / 30) may well be a hidden layer's
_KEYS = jax.random.split(jax.random.key(0), 6)
_X = jax.random.normal(_KEYS[0], (64, 8))
_LABELS = jax.random.randint(_KEYS[1], (64,), 0, 4)
_ONE_HOT = jax.nn.one_hot(_LABELS, 4)
_TARGETS = _X[:, 0]
_YES = (_TARGETS > 0).astype(int)
_PARAMS = {
    "body": initjax.he_normal()(_KEYS[2], (8, 16)),
    "classes": initjax.lecun_normal()(_KEYS[3], (16, 4)),
    "number": initjax.lecun_normal()(_KEYS[4], (16, 1)),
}
_int_cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def _logits(p, x):
    return jax.nn.relu(x @ p["body"]) @ p["classes"]


def _number(p, x):
    return (jax.nn.relu(x @ p["body"]) @ p["number"])[:, 0]


def _entropy(output, before=lambda z: z):
    """The cross entropy of a function of the logits, by name."""
    losses = {
        "integers": lambda z: _int_cross_entropy(z, _LABELS).mean(),
        "one-hot": lambda z: optax.softmax_cross_entropy(z, _ONE_HOT).mean(),
        "by hand": lambda z: -jnp.mean(jnp.sum(_ONE_HOT * jnp.log(jax.nn.softmax(z) + 1e-7), -1)),
        "vmap": lambda z: jax.vmap(lambda z, y: -jax.nn.log_softmax(z)[y])(z, _LABELS).mean(),
        "binary": lambda z: optax.sigmoid_binary_cross_entropy(z, _ONE_HOT).mean(),
        "softplus": lambda z: (jax.nn.softplus(z) - _ONE_HOT * z).mean(),
        "sigmoid by hand": lambda z: (
            -jnp.mean(
                _ONE_HOT * jnp.log(jax.nn.sigmoid(z))
                + (1 - _ONE_HOT) * jnp.log(1 - jax.nn.sigmoid(z))
            )
        ),
    }
    return lambda p, x: losses[output](before(_logits(p, x)))


def _labels(how, labels):
    """Binary cross entropies of labels that may be no probabilities."""
    losses = {
        "binary": lambda z: optax.sigmoid_binary_cross_entropy(z, labels).mean(),
        "softplus": lambda z: (jax.nn.softplus(z) - labels * z).mean(),
        "by hand": lambda z: (
            -jnp.mean(
                labels * jnp.log(jax.nn.sigmoid(z) + 1e-7)
                + (1 - labels) * jnp.log(1 - jax.nn.sigmoid(z) + 1e-7)
            )
        ),
    }
    return lambda p, x: losses[how](_logits(p, x))


def _classes(how, numbers):
    """Cross entropies of classes of which there may be too many."""
    losses = {
        "integers": lambda z: _int_cross_entropy(z, numbers).mean(),
        "one-hot": lambda z: optax.softmax_cross_entropy(z, jax.nn.one_hot(numbers, 4)).mean(),
        "picked": lambda z: -jax.nn.log_softmax(z)[jnp.arange(64), numbers].mean(),
        "negated": lambda z: (-jax.nn.one_hot(numbers, 4) * jax.nn.log_softmax(z)).sum(-1).mean(),
    }
    return lambda p, x: losses[how](_logits(p, x))


def _likelihood(scale):
    """Of a normal distribution with learned mean and logarithm of the standard deviation."""

    def loss_fn(p, x):
        log = scale * _number(p, x)
        return jnp.mean(log + jnp.square((_logits(p, x)[:, 0] - _TARGETS) * jnp.exp(-log)) / 2)

    return loss_fn


def _square(before=lambda z: z, targets=_TARGETS):
    return lambda p, x: jnp.square(before(_number(p, x)) - targets).mean()


def _one_unit(p, x):
    return jax.nn.softmax(_number(p, x)[:, None])[:, 0]


def _raw_entropy(p, x, least=-math.inf):
    z = _logits(p, x)
    yes, no = jnp.maximum(z, least), jnp.maximum(1 - z, least)
    return -jnp.mean(_ONE_HOT * jnp.log(yes) + (1 - _ONE_HOT) * jnp.log(no))


def _causes(loss_fn, params=_PARAMS):
    findings = initjax.audit(loss_fn, params, _X).findings
    return {finding.cause: finding for finding in findings if finding.cause not in _OTHERS}


@pytest.mark.parametrize(
    ("cause", "text", "loss_fn"),
    [
        (
            "constant_output",
            "a softmax over one unit",
            lambda p, x: -jnp.log(_one_unit(p, x)).mean() + 1e-3 * jnp.square(p["body"]).sum(),
        ),
        (
            "constant_output",
            "a softmax over one unit",
            lambda p, x: jnp.square(_one_unit(p, x) - (_TARGETS > 0)).mean(),
        ),
        ("constant_output", "only through round", _square(jnp.round)),
        ("constant_output", "where relu is flat", _square(lambda z: jax.nn.relu(z - 99))),
        (
            "constant_output",
            "does not change",
            lambda p, x: jnp.clip(_square()(p, x), 100, 200),
        ),
        (
            "double_softmax",
            f"below {math.log(1 + 3 / math.e):.4f}",
            _entropy("integers", jax.nn.softmax),
        ),
        ("double_softmax", "a sigmoid again", _entropy("binary", jax.nn.sigmoid)),
        ("bounded_output", "below 0.7437, and guessing", _entropy("vmap", jax.nn.sigmoid)),
        ("bounded_output", "labels from -1 to 1", _labels("binary", 2 * _ONE_HOT - 1)),
        ("bounded_output", "labels from 1 to 2", _labels("softplus", 1 + _ONE_HOT)),
        ("bounded_output", "labels from -3 to 1", _labels("by hand", 1 - 4 * _ONE_HOT)),
        ("bounded_output", "labels go from 1 to 4", _classes("one-hot", _LABELS + 1)),
        ("bounded_output", "labels go from 1 to 4", _classes("negated", _LABELS + 1)),
        ("bounded_output", "labels go from 0 to 6", _classes("picked", 2 * _LABELS)),
        ("not_finite", "labels go from 1 to 4", _classes("integers", _LABELS + 1)),
        ("bounded_output", "between 0 and 1", _square(jax.nn.sigmoid, 100 * _TARGETS**2)),
        ("bounded_output", "go through relu, so they lie above 0", _square(jax.nn.relu)),
        ("bounded_output", "go through softplus", _square(jax.nn.softplus)),
        ("bounded_output", "clipped at 1e-07", lambda p, x: _raw_entropy(p, x, 1e-7)),
        (
            "bounded_output",
            "clipped at 1e-07",
            lambda p, x: -(_ONE_HOT * jnp.log(jax.nn.relu(_logits(p, x)) + 1e-7)).sum(-1).mean(),
        ),
        ("target_scale", "mean 1e+03", _square(targets=1000 + _TARGETS)),
        ("target_scale", "standard deviation 9.9", _square(targets=1e-4 * _TARGETS)),
        ("output_scale", "the exponential of what number gives", _likelihood(6.0)),
        ("output_scale", "before a sigmoid", _entropy("softplus", lambda z: 16 * z)),
        ("not_finite", "takes the logarithm of what classes gives", _raw_entropy),
        (
            "not_finite",
            "takes a logarithm twice",
            lambda p, x: -jnp.log(jax.nn.log_softmax(_logits(p, x))).mean(),
        ),
        (
            "not_finite",
            "a square root at zero",
            lambda p, x: jnp.linalg.norm(_number(p, x) * 0) + _square()(p, x),
        ),
    ],
)
def test_a_fault_between_the_last_layer_and_the_loss_is_named(cause, text, loss_fn):
    found = _causes(loss_fn)
    assert list(found) == [cause]
    assert text in found[cause].message


@pytest.mark.parametrize(
    "loss_fn",
    [
        *(_entropy(name) for name in ("by hand", "sigmoid by hand", "softplus")),
        _entropy("integers", jax.nn.log_softmax),
        _entropy("integers", lambda z: 30 * jnp.tanh(z / 30)),
        _entropy("integers", lambda z: -jnp.square(z)),
        _entropy("integers", jnp.tanh),
        _labels("binary", jnp.where(_ONE_HOT == 1, 1.2, 0.1)),
        _classes("one-hot", jnp.where(_LABELS == 2, 255, _LABELS)),
        _likelihood(1.0),
        _square(jax.nn.sigmoid, (_TARGETS > 0).astype(float)),
        _square(targets=3.0 * _LABELS),
        lambda p, x: optax.huber_loss(_number(p, x), 20 + 10 * _TARGETS).mean(),
        lambda p, x: (
            jax.nn.softplus(-_number(p, x)).mean() + jax.nn.softplus(_number(p, -x)).mean()
        ),
        lambda p, x: jnp.square(jax.nn.relu(x @ p["body"]) @ p["body"].T - x).mean(),
        lambda p, x: jnp.square(jnp.linalg.norm(_logits(p, x), axis=-1) - 1).mean(),
    ],
    ids=range(16),
)
def test_losses_without_a_fault_are_healthy(loss_fn):
    assert not _causes(loss_fn)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (255 * _YES, ["bounded_output"]),
        (2 + _YES, ["bounded_output"]),
        (2 * _YES - 1, []),
        (0 * _YES, []),  # a batch of one class
        (99 * _TARGETS, []),  # no classes
    ],
)
def test_labels_that_a_loss_takes_for_one_class_are_found(labels, found):
    def loss_fn(p, x, y):
        chance = jax.nn.sigmoid(_number(p, x))
        return jnp.where(y == 1, -jnp.log(chance), -jnp.log(1 - chance)).mean()

    findings = initjax.audit(loss_fn, _PARAMS, _X, labels).findings
    assert [finding.cause for finding in findings if finding.cause not in _OTHERS] == found


def test_a_loss_in_a_loop_is_read():
    def chunk(p, total, chunk):
        x, y = chunk
        return total + _int_cross_entropy(jax.nn.softmax(_logits(p, x)), y).mean() / 4, None

    chunks = _X.reshape(4, 16, 8), _LABELS.reshape(4, 16)
    report = initjax.audit(
        lambda p, x, y: jax.lax.scan(functools.partial(chunk, p), 0.0, (x, y))[0], _PARAMS, *chunks
    )
    assert "double_softmax" in [finding.cause for finding in report.findings]
    assert report.network.expected_loss == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("head", "bound"), [(jax.nn.softmax, "softmax"), (jnp.tanh, "tanh"), (lambda z: z, "")]
)
def test_the_range_of_outputs_that_a_loop_stacks_is_known(head, bound):
    def loss_fn(p, x, labels):
        def turn(state, x):
            return state, head(_logits(p, x))

        return _int_cross_entropy(jax.lax.scan(turn, None, x)[1], labels).mean()

    steps = _X.reshape(4, 16, 8), _LABELS.reshape(4, 16)
    (term,) = trace("audit", loss_fn, _PARAMS, steps, False).anatomy.losses.terms
    assert (term.kind, term.bound) == ("cross entropy", bound)


def test_fix_makes_outputs_smaller_and_leaves_weights_that_are_not_at_fault():
    large = {**_PARAMS, "classes": 16 * _PARAMS["classes"]}
    _, repair = initjax.fix(_entropy("binary"), large, _X)
    assert "output_scale" in [finding.cause for finding in repair.before.findings]
    assert [finding.cause for finding in repair.after.findings] == ["unused"]
    params, repair = initjax.fix(_square(targets=1000 + _TARGETS), _PARAMS, _X)
    assert params is _PARAMS
    assert "no other weights would help" in repair.target


def _masked(p, x, weights):
    loss = _int_cross_entropy(_logits(p, x), _LABELS)
    return (loss * weights).sum() / weights.sum()


@pytest.mark.parametrize(
    ("loss_fn", "guess"),
    [
        (lambda p, x, w: _entropy("integers")(p, x), True),
        (lambda p, x, w: _entropy("one-hot")(p, x) + 1e-3 * jnp.square(p["body"]).sum(), True),
        (_masked, True),
        (lambda p, x, w: jnp.mean(_int_cross_entropy(_logits(p, x), _LABELS), where=w > 0), True),
        (lambda p, x, w: (w * _int_cross_entropy(_logits(p, x), _LABELS)).mean(), False),
        (lambda p, x, w: 64 * _entropy("integers")(p, x), False),
    ],
    ids=["integers", "one-hot", "weights", "mask", "advantages", "sum"],
)
def test_only_a_mean_cross_entropy_is_compared_with_guessing(loss_fn, guess):
    traced = trace("audit", loss_fn, _PARAMS, (_X, _TARGETS), False)
    (term,) = traced.anatomy.losses.terms
    assert (term.kind, term.classes, term.guess) == ("cross entropy", 4, guess)


def test_a_rectifier_on_logits_is_a_fault_if_it_silences_a_class():
    loss_fn = _entropy("one-hot", jax.nn.relu)
    assert not _causes(loss_fn)
    dead = {**_PARAMS, "classes": _PARAMS["classes"].at[:, 1].set(-0.1)}
    for output in ("one-hot", "integers", "vmap"):
        found = _causes(_entropy(output, jax.nn.relu), dead)
        assert "100% of their own examples" in found["bounded_output"].message


def test_rows_are_sampled_alike_where_targets_are_broadcast():
    x, targets = jnp.ones((3000, 8)), jnp.arange(3000.0)[:, None]
    params = {"classes": jnp.ones((8, 512)) / 8}

    def loss_fn(p, x):
        return jnp.square(x @ p["classes"] - targets).mean()

    assert initjax.audit(loss_fn, params, x).network.loss > 0


def test_outputs_without_a_number_have_no_statistics():
    def loss_fn(p, x):
        none = _logits(p, x)[:, 4:]
        never, _ = jax.lax.scan(
            lambda total, w: (total + jnp.square(x @ w - x[:, :4]).mean(), None), 0.0, p["never"]
        )
        return (
            jnp.square(_number(p, x) - _TARGETS).mean() + jnp.square(none - x[:, :0]).sum() + never
        )

    params = {**_PARAMS, "never": jnp.zeros((0, 8, 4))}
    assert "target_scale" not in _causes(loss_fn, params)


@pytest.mark.parametrize(
    "distance",
    [
        lambda p, z, y: (((y - z) / jnp.exp(p["noise"])) ** 2 / 2 + p["noise"]).mean(),
        lambda p, z, y: (jnp.square(z - y) / jnp.exp(2 * p["noise"]) + p["noise"]).mean(),
        lambda p, z, y: (-_X[:, 1] * jnp.square(jax.lax.stop_gradient(z) + y - z)).mean(),
        lambda p, z, y: (_X[:, 1] * jnp.square((y - z) / 0.5)).mean(),
    ],
    ids=["learned deviation", "learned variance", "action drawn around the output", "advantages"],
)
def test_noise_may_reach_beyond_the_range_of_a_mean(distance):
    def loss_fn(p, x):
        return distance(p, jnp.tanh(_number(p, x)), 2 * _TARGETS)

    params = {**{name: _PARAMS[name] for name in ("body", "number")}, "noise": jnp.zeros(())}
    causes = [finding.cause for finding in initjax.audit(loss_fn, params, _X).findings]
    assert "bounded_output" not in causes
