"""What a loss does with the examples of the batch."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from initjax import auditor, he_normal, lecun_normal
from initjax.auditing._reading.trace import trace

KEYS = jax.random.split(jax.random.key(0), 5)
N, K = 32, 3
X = jax.random.normal(KEYS[0], (N, 8))
ONE = {"in": he_normal()(KEYS[1], (8, 16)), "out": lecun_normal()(KEYS[2], (16, 1))}
CLASSES = {"in": ONE["in"], "out": lecun_normal()(KEYS[3], (16, K))}
HALF = {"in": ONE["in"][:4], "out": ONE["out"]}
Y = jax.random.normal(KEYS[4], (N,))
LABELS = jnp.arange(N) % K


def net(p, x):
    return jax.nn.relu(x @ p["in"]) @ p["out"]


def bce(p, x, y):
    return optax.sigmoid_binary_cross_entropy(net(p, x), 1.0 * (y > 0)).mean()


def classes(axis):
    def loss(p, x, labels):
        return -jnp.take_along_axis(jax.nn.log_softmax(net(p, x), axis), labels[:, None], 1).mean()

    return loss


def clip(p, x, y):
    z = net(p, x) @ (x @ jnp.ones((8, K))).T
    return -(jnp.diag(jax.nn.log_softmax(z, 0)) + jnp.diag(jax.nn.log_softmax(z, 1))).mean()


def sinkhorn(p, x, labels):
    q = jnp.exp(net(p, x))
    q = q / q.sum(0)
    q = q / q.sum(1, keepdims=True)
    return -(q * jax.nn.log_softmax(net(p, x))).sum(1).mean()


def pooled(p, x, y):
    weights = jax.nn.softmax(net(p, x), 0)
    return jnp.square(weights.T @ x - 1).mean()


def energy(p, x, y):
    z = net(p, x)
    return 2 * jnp.abs(z - y).mean() - jnp.abs(z - z.T).mean()


def kernel(p, x, y):
    return -jnp.exp(-jnp.square(net(p, x) - y)).mean()


def turned(p, x):
    """Two times first, then the examples."""
    return net(p, x.reshape(N, 2, 4).transpose(1, 0, 2))


def cumulative(z, y):
    return optax.softmax_cross_entropy_with_integer_labels(jnp.cumsum(z, 0), y).mean()


def survival(p, x, y):
    z = net(p, x)[:, 0]
    return -(z - jax.lax.cumlogsumexp(z)).mean()


def squares(z, y):
    return jnp.square(z - y)


def critic(p, x, y):
    advantage = jax.lax.stop_gradient(y - net(p, x))
    return (x[:, 0] * advantage).mean() + squares(y, net(p, x)).mean()


def chosen(p, x, y):
    chance = jax.nn.sigmoid(net(p, x))
    return jnp.where(y > 0, -jnp.log(chance), -jnp.log(1 - chance)).mean()


def one_hot(p, x, y):
    return optax.softmax_cross_entropy(net(p, x), jax.nn.one_hot(y, K)).mean()


def indexed(p, x, y):
    return -jax.nn.log_softmax(net(p, x))[jnp.arange(N), y].mean()


COUPLED = [
    (critic, ONE, Y, "broadcast"),
    (lambda p, x, y: squares(net(p, x), y).mean(), ONE, Y, "broadcast"),
    (lambda p, x, y: squares(net(p, x)[:, 0], y).mean(), ONE, Y[:, None], "broadcast"),
    (bce, ONE, Y, "broadcast"),
    (chosen, ONE, Y, "broadcast"),
    (lambda p, x, y: jnp.logaddexp(0, -net(p, x) * y).mean(), ONE, Y, "broadcast"),
    (one_hot, CLASSES, LABELS[:, None], "broadcast"),
    (indexed, CLASSES, LABELS[:, None], "picked"),
    (lambda p, x, y: -jax.nn.log_softmax(net(p, x))[:, y].mean(), CLASSES, LABELS, "picked"),
    (classes(0), CLASSES, LABELS, "softmax"),
    (lambda p, x, y: classes(1)(p, x.T.reshape(N, 8), y), CLASSES, LABELS, "reshape"),
    (lambda p, x, y: squares(turned(p, x).reshape(N, -1)[:, 0], y).mean(), HALF, Y, "reshape"),
    (lambda p, x, y: cumulative(net(p, x), y), CLASSES, LABELS, "cumulative"),
]
MEANT = [
    (lambda p, x, y: squares(net(p, x), y[:, None]).mean(), ONE, Y),
    (lambda p, x, y: squares(net(p, x)[:, :1], y[None]).min(1).mean(), ONE, Y),
    (classes(1), CLASSES, LABELS),
    (one_hot, CLASSES, LABELS),
    (indexed, CLASSES, LABELS),
    (lambda p, x, y: squares(net(p, x), net(p, x)[y] + 1).mean(), CLASSES, LABELS),
    (lambda p, x, y: classes(1)(p, x.reshape(8, N).reshape(N, 8), y), CLASSES, LABELS),
    (lambda p, x, y: squares(turned(p, x).reshape(-1, 1), jnp.tile(y, 2)[:, None]).mean(), HALF, Y),
    (survival, ONE, Y),
    (clip, CLASSES, Y),
    (sinkhorn, CLASSES, LABELS),
    (pooled, CLASSES, Y),
    (energy, ONE, Y),
    (kernel, ONE, Y),
    (lambda p, x, y: -(jax.nn.softmax(y) * jax.nn.log_softmax(net(p, x)[:, 0])).sum(), ONE, Y),
]


def ends(loss_fn, params, *batch):
    return trace("audit", loss_fn, params, batch, False).ends


@pytest.mark.parametrize(("loss_fn", "params", "target", "kind"), COUPLED)
def test_examples_that_meet_by_mistake_are_found(loss_fn, params, target, kind):
    coupling = ends(loss_fn, params, X, target).coupling
    assert coupling is not None
    assert (coupling.kind, coupling.examples) == (kind, N)


@pytest.mark.parametrize(("loss_fn", "params", "target"), MEANT)
def test_examples_that_meet_on_purpose_are_not(loss_fn, params, target):
    assert ends(loss_fn, params, X, target) == (None, 0)


STEPS = jax.random.normal(KEYS[4], (N, 5, 8))


def recurrent(p, x):  # of (time, batch, features)
    def turn(h, x):
        h = jnp.tanh(x @ p["in"] + h)
        return h, h

    return jax.lax.scan(turn, jnp.zeros((x.shape[1], 16)), x)[1]


def attentive(p, x):
    h = x @ p["in"]
    return jnp.einsum("qkb,kbd->qbd", jax.nn.softmax(jnp.einsum("qbd,kbd->qkb", h, h), 1), h)


def weighted(axis):
    def mix(p, x):
        h = jax.nn.relu(x @ p["in"])
        return jnp.sum(jax.nn.softmax(h @ p["out"], axis) * h, 1, keepdims=True)

    return mix


def swapped(mix):
    return lambda p, x: jnp.swapaxes(mix(p, jnp.swapaxes(x, 0, 1)), 0, 1)


@pytest.mark.parametrize(
    ("mix", "end", "targets", "kind"),
    [
        (recurrent, lambda h: h[:, -1], Y, "scan"),
        (recurrent, lambda h: h.mean(1), Y, "scan"),
        (recurrent, lambda h: h.sum(1), Y, None),  # over agents, at each time
        (recurrent, lambda h: h, STEPS[:, :, 0], None),  # of (time, batch)
        (swapped(recurrent), lambda h: h[:, -1], Y, None),
        (attentive, lambda h: h[:, 0], Y, "attention"),
        (swapped(attentive), lambda h: h.mean(1), Y, None),
        (weighted(0), lambda h: h[:, 0], Y, "weights"),
        (weighted(1), lambda h: h[:, 0], Y, None),
    ],
)
def test_sequences_read_along_the_batch_are_found(mix, end, targets, kind):
    def loss_fn(p, x, y):
        return squares((end(mix(p, x)) @ p["out"])[..., 0], y).mean()

    coupling = ends(loss_fn, ONE, STEPS, targets).coupling
    assert (coupling and coupling.kind) == kind


def test_a_sequence_along_the_batch_is_reported_with_its_shape():
    def loss_fn(p, x, y):
        return squares((recurrent(p, x)[:, -1] @ p["out"])[:, 0], y).mean()

    report = auditor(loss_fn, ONE, STEPS, Y)(ONE, STEPS, Y)
    assert [(f.level, f.cause) for f in report.findings] == [("failure", "batch_coupling")]
    assert "32 examples of a batch of shape (32, 5, 8)" in report.findings[0].message
    assert "swapaxes" in report.findings[0].code


@pytest.mark.parametrize(
    ("end", "summed"),
    [
        (lambda e, p, y: e.sum(), N),
        (lambda e, p, y: functools.reduce(lambda z, _: z + 0.5 * z, range(40), e.sum()), 0),  # long
        (lambda e, p, y: 0.5 * e.sum(1).sum(), N),
        (lambda e, p, y: e.mean(1).sum(), N),
        (lambda e, p, y: e.sum(1).mean(), 0),
        (lambda e, p, y: e.sum() / N, 0),
        (lambda e, p, y: (e * (y > 0)[:, None]).sum() / (y > 0).sum(), 0),
        (lambda e, p, y: e.sum() + jnp.square(p["out"]).sum(), 0),  # a prior
        (lambda e, p, y: jnp.sqrt(e.sum()), 0),
    ],
)
def test_sums_over_the_batch_are_told_from_means(end, summed):
    def loss_fn(p, x, y):
        return end(jnp.square(net(p, x) - 1), p, y)

    assert ends(loss_fn, CLASSES, X, Y).summed == summed


def in_parts(loop):
    """A sum over micro-batches, by a loop of each kind."""
    cut = jax.lax.dynamic_slice_in_dim

    def loss(p, x):
        return jnp.square(net(p, x) - 1).mean(1)

    def scanned(p, x, per):
        parts = x.reshape(4, N // 4, -1)
        return jax.lax.scan(lambda total, x: (total + per(loss(p, x)), None), 0.0, parts)[0]

    def counted(p, x, per):
        turn = lambda i, total: total + per(loss(p, cut(x, i * 8, 8)))  # noqa: E731
        return jax.lax.fori_loop(0, 4, turn, 0.0)

    def mapped(p, x, per):
        return jax.lax.map(lambda x: per(loss(p, x)), x.reshape(4, N // 4, -1)).sum()

    def sharded(p, x, per):
        mesh, spec = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec
        each = lambda p, x: jax.lax.psum(per(loss(p, x)), "data")  # noqa: E731
        specs = (spec(), spec("data"))
        return jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=spec())(p, x)

    return {"scan": scanned, "fori": counted, "map": mapped, "shard": sharded}[loop]


@pytest.mark.parametrize("loop", ["scan", "fori", "map", "shard"])
def test_sums_over_micro_batches_are_told_from_means(loop):
    total = in_parts(loop)
    assert ends(lambda p, x: total(p, x, jnp.sum), CLASSES, X).summed == N
    assert ends(lambda p, x: total(p, x, jnp.sum) / N, CLASSES, X).summed == 0
    assert ends(lambda p, x: total(p, x, jnp.mean) / 4, CLASSES, X).summed == 0


def test_what_micro_batches_hand_on_is_no_sum_of_theirs():
    def loss_fn(p, x):
        def turn(total, x):
            return total + jnp.tanh(total) * jnp.square(net(p, x) - 1).sum(), None

        return jax.lax.scan(turn, 1.0, x.reshape(4, N // 4, -1))[0]

    assert ends(loss_fn, CLASSES, X).summed == 0


def test_the_axis_of_examples_is_followed_through_loops():
    stack = {**ONE, "mid": he_normal()(KEYS[3], (2, 16, 16))}

    def loss_fn(p, x, y):
        h = jax.nn.relu(x @ p["in"])
        h, _ = jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), h, p["mid"])
        return squares(h @ p["out"], y).sum() / N**2

    assert ends(loss_fn, stack, X, Y).coupling is not None


def test_what_is_found_is_reported_with_its_numbers():
    report = auditor(COUPLED[0][0], ONE, X, Y)(ONE, X, Y)
    assert [(f.level, f.cause) for f in report.findings] == [("failure", "batch_coupling")]
    assert "(32, 1) with targets of shape (32,)" in report.findings[0].message
    assert "predictions[:, 0]" in report.findings[0].code


def test_an_optimizer_decides_whether_a_sum_does_harm():
    def loss_fn(p, x, y):
        return squares(net(p, x)[:, 0], y).sum()

    for optimizer, causes in [(optax.adam(1e-3), []), (optax.sgd(0.1), ["sum_loss"])]:
        report = auditor(loss_fn, ONE, X, Y, optimizer=optimizer)(ONE, X, Y)
        assert [finding.cause for finding in report.findings] == causes
