"""Models of physics, sets and graphs, and of decisions, in Linen, Equinox and plain JAX."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from audit_zoo.cases import ADAM, KEY, Case, linen, picture, point_sets, trained_by

init = nn.initializers
FAST_ADAM = optax.adam(3e-3)
Layers = list[dict[str, jax.Array]]


def drawn(sizes: Sequence[int], kernel_init: Any, key: jax.Array = KEY) -> Layers:
    """Plain JAX: kernels by an initializer, and biases of zero."""
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = itertools.pairwise(sizes)
    return [
        {"w": kernel_init(k, shape, jnp.float32), "b": jnp.zeros(shape[1])}
        for k, shape in zip(keys, shapes, strict=True)
    ]


def mlp(params: Layers, x: jax.Array, activation: Any = jnp.tanh) -> jax.Array:
    for layer in params[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def pinn() -> Case:
    """maziarraissi/PINNs: Burgers' equation, with second derivatives; Glorot and tanh."""
    params = drawn((2, 20, 20, 20, 20, 1), init.glorot_normal())
    keys = jax.random.split(jax.random.key(21))
    inside = jax.random.uniform(keys[0], (4096, 2)) * jnp.array([1.0, 2.0]) - jnp.array([0, 1.0])
    start = jax.random.uniform(keys[1], (4096, 1), minval=-1)

    def u(params, t, x):
        return mlp(params, jnp.stack([2 * t - 1, x]))[0]

    def residual(params, point):
        t, x = point
        u_t, u_x = jax.grad(u, (1, 2))(params, t, x)
        u_xx = jax.grad(jax.grad(u, 2), 2)(params, t, x)
        return u_t + u(params, t, x) * u_x - 0.01 / jnp.pi * u_xx

    def loss(params, inside, start):
        f = jax.vmap(functools.partial(residual, params))(inside)
        first = jax.vmap(lambda x: u(params, 0.0, x[0]) + jnp.sin(jnp.pi * x[0]))(start)
        ends = jax.vmap(lambda point: jnp.stack([u(params, point[0], s) for s in (-1.0, 1.0)]))
        return jnp.mean(f**2) + jnp.mean(first**2) + jnp.mean(ends(inside) ** 2)

    return trained_by("PINN, Burgers", "plain JAX", loss, params, (inside, start), FAST_ADAM)


def neural_ode() -> Case:
    """Equinox: patrick-kidger/diffrax's example, on decaying spirals, by Runge and Kutta."""
    net = eqx.nn.MLP(2, 2, 64, 2, activation=jax.nn.softplus, key=KEY)
    params, static = eqx.partition(net, eqx.is_inexact_array)
    start = jax.random.uniform(jax.random.key(22), (2048, 2), minval=-1)
    times = jnp.linspace(0, 3, 16)
    decay = jnp.exp(-0.3 * times)[:, None]
    cos, sin = jnp.cos(2 * times)[:, None], jnp.sin(2 * times)[:, None]
    x, y = start[:, None, :1], start[:, None, 1:]
    paths = jnp.concatenate([decay * (cos * x - sin * y), decay * (sin * x + cos * y)], -1)

    def loss(params, start, paths):
        field = jax.vmap(eqx.combine(params, static))

        def turn(y, _):
            h = times[1]
            k1 = field(y)
            k2 = field(y + h / 2 * k1)
            k3 = field(y + h / 2 * k2)
            k4 = field(y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return y, y

        _, found = jax.lax.scan(turn, start, None, length=15)
        return jnp.mean((found.swapaxes(0, 1) - paths[:, 1:]) ** 2)

    return trained_by("Neural ODE", "Equinox", loss, params, (start, paths), FAST_ADAM, 128)


def hamiltonian() -> Case:
    """greydanus/hamiltonian-nn: orthogonal kernels; its outputs are derivatives by its inputs."""
    *params, last = drawn((2, 64, 64, 1), init.orthogonal())
    params.append({"w": last["w"]})  # a bias would be a constant of the energy
    state = jax.random.uniform(jax.random.key(23), (4096, 2), minval=-2, maxval=2)
    change = jnp.stack([state[:, 1], -jnp.sin(state[:, 0])], -1)  # of a pendulum

    def energy(params, s):
        for layer in params[:-1]:
            s = jnp.tanh(s @ layer["w"] + layer["b"])
        return (s @ params[-1]["w"])[0]

    def loss(params, state, change):
        gradient = jax.vmap(jax.grad(lambda s: energy(params, s)))(state)
        return jnp.mean((jnp.stack([gradient[:, 1], -gradient[:, 0]], -1) - change) ** 2)

    return trained_by("Hamiltonian network", "plain JAX", loss, params, (state, change), FAST_ADAM)


class NeRF(nn.Module):
    """google-research/jaxnerf: Glorot's uniform draws, and a skip."""

    @nn.compact
    def __call__(self, points):
        angles = points[..., None] * 2.0 ** jnp.arange(5)
        parts = [points, *(f(angles).reshape(*points.shape[:-1], -1) for f in (jnp.sin, jnp.cos))]
        x = start = jnp.concatenate(parts, -1)
        layer = functools.partial(nn.Dense, kernel_init=init.glorot_uniform())
        for i in range(4):
            x = nn.relu(layer(48)(x))
            if i == 2:
                x = jnp.concatenate([x, start], -1)
        return layer(1)(x)[..., 0], layer(3)(nn.relu(layer(24)(x)))


def nerf() -> Case:
    """Rays that look along an axis into a box with a colored ball."""
    model, steps = NeRF(), jnp.linspace(-1, 1, 16)
    places = jax.random.uniform(jax.random.key(24), (2048, 2), minval=-1)
    inside = (places**2).sum(-1, keepdims=True) < 0.4
    colors = jnp.where(inside, jnp.concatenate([places / 2 + 0.5, places[:, :1] ** 2], -1), 1.0)

    def points(places):
        depths = jnp.broadcast_to(steps[:, None], (len(places), len(steps), 1))
        return jnp.concatenate([jnp.repeat(places[:, None], len(steps), 1), depths], -1)

    def loss(params, places, colors):
        outputs: Any = model.apply(params, points(places))
        density, color = outputs
        alpha = 1 - jnp.exp(-nn.relu(density) * (steps[1] - steps[0]))
        clear = jnp.cumprod(1 - alpha + 1e-10, -1)
        weights = alpha * jnp.concatenate([jnp.ones_like(clear[:, :1]), clear[:, :-1]], -1)
        seen = (weights[..., None] * nn.sigmoid(color)).sum(1) + 1 - weights.sum(-1, keepdims=True)
        return jnp.mean((seen - colors) ** 2)

    params = model.init(KEY, points(places[:2]))
    return trained_by("NeRF", "Linen", loss, params, (places, colors), ADAM, 64)


class DeepSets(eqx.Module):
    """Equinox: the sum of what a network makes of each point."""

    each: eqx.nn.MLP
    all: eqx.nn.MLP

    def __call__(self, points):
        return self.all(jax.vmap(self.each)(points).mean(0))


def deep_sets() -> Case:
    keys = jax.random.split(KEY)
    model = DeepSets(eqx.nn.MLP(2, 32, 64, 2, key=keys[0]), eqx.nn.MLP(32, 4, 64, 1, key=keys[1]))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(params, points):
        return jax.vmap(eqx.combine(params, static))(points)

    return Case("DeepSets", "Equinox", apply, params, point_sets(), FAST_ADAM, 64)


class GCN(nn.Module):
    """tkipf/gcn: Glorot's uniform draws; sums over neighbors by `segment_sum`."""

    senders: Any
    receivers: Any

    @nn.compact
    def __call__(self, nodes):
        count = nodes.shape[1]
        degree = jax.ops.segment_sum(jnp.ones(len(self.senders)), self.receivers, count)
        scale = (degree[self.senders] * degree[self.receivers]) ** -0.5
        layer = functools.partial(nn.Dense, use_bias=False, kernel_init=init.glorot_uniform())

        def spread(x):
            return jax.ops.segment_sum(scale[:, None] * x[self.senders], self.receivers, count)

        x = nn.relu(jax.vmap(spread)(layer(16)(nodes)))
        return jax.vmap(spread)(layer(4)(x))


def gcn() -> Case:
    """Nodes of a graph of four communities, with noisy features."""
    rng = np.random.default_rng(25)
    group = np.repeat(np.arange(4), 16)
    near = rng.random((64, 64)) < np.where(group[:, None] == group, 0.3, 0.02)
    senders, receivers = np.nonzero(near | near.T | np.eye(64, dtype=bool))
    labels = np.stack([rng.permutation(4)[group] for _ in range(512)])
    features = np.eye(4)[labels] @ rng.normal(size=(4, 8)) / 2 + rng.normal(size=(512, 64, 8))
    data = jnp.asarray(features, jnp.float32), jnp.asarray(labels)
    model = GCN(jnp.asarray(senders), jnp.asarray(receivers))
    return linen("GCN, segment_sum", model, data, optax.adam(1e-2), 16)


def fourier_features() -> Case:
    """Plain JAX: tancik/fourier-feature-networks, sines of fixed random directions."""
    directions = 3 * jax.random.normal(jax.random.key(26), (2, 32))
    params = drawn((64, 64, 64, 1), init.he_normal())

    def apply(params, x):
        angles = 2 * jnp.pi * x @ directions
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        return mlp(params, features, jax.nn.relu)

    return Case("Fourier features", "plain JAX", apply, params, picture(), ADAM)


@functools.cache
def steps_of_a_game() -> tuple[jax.Array, ...]:
    """Observations, actions, advantages, returns, and next observations."""
    keys = jax.random.split(jax.random.key(27), 4)
    x = jax.random.normal(keys[0], (4096, 8))
    actions = jax.random.randint(keys[1], (4096,), 0, 4)
    mixing = jax.random.normal(keys[2], (8, 4))
    good = (x @ mixing)[jnp.arange(4096), actions]
    return x, actions, (good - good.mean()) / good.std(), 1 + x[:, 0], x[:, ::-1]


def ppo() -> Case:
    """vwxyzjn/cleanrl: orthogonal of √2, the policy's head of .01, the critic's of 1."""

    def network(key, outputs, last):
        params = drawn((8, 64, 64, outputs), init.orthogonal(2**0.5), key)
        params[-1]["w"] = init.orthogonal(last)(key, (64, outputs), jnp.float32)
        return params

    keys = jax.random.split(KEY)
    params = {"actor": network(keys[0], 4, 0.01), "critic": network(keys[1], 1, 1.0)}
    old = params

    def loss(params, x, actions, advantages, returns):
        def log_chances(params):
            logits = mlp(params["actor"], x)
            return jax.nn.log_softmax(logits)[jnp.arange(len(x)), actions], logits

        now, logits = log_chances(params)
        ratio = jnp.exp(now - log_chances(old)[0])
        gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages).mean()
        entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1).mean()
        value = mlp(params["critic"], x)[:, 0]
        return 0.25 * jnp.mean((value - returns) ** 2) - gain - 0.01 * entropy

    data = steps_of_a_game()[:4]
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2.5e-4, eps=1e-5))
    return trained_by("PPO: actor and critic", "plain JAX", loss, params, data, optimizer)


class Shared(nn.Module):
    """google/flax, examples/ppo: one trunk; the policy's head is small."""

    @nn.compact
    def __call__(self, x):
        layer = functools.partial(nn.Dense, kernel_init=init.orthogonal(2**0.5))
        x = nn.relu(layer(64)(nn.relu(layer(64)(x))))
        logits = nn.Dense(4, kernel_init=init.orthogonal(0.01))(x)
        return logits, nn.Dense(1, kernel_init=init.orthogonal(1.0))(x)[:, 0]


def a2c() -> Case:
    model, data = Shared(), steps_of_a_game()[:4]

    def loss(params, x, actions, advantages, returns):
        logits, value = model.apply(params, x)
        log_chances = jax.nn.log_softmax(logits)[jnp.arange(len(x)), actions]
        return 0.5 * jnp.mean((value - returns) ** 2) - (advantages * log_chances).mean()

    return trained_by("A2C, one trunk", "Linen", loss, model.init(KEY, data[0][:2]), data)


class QNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(84)(nn.relu(nn.Dense(120)(x)))))


def dqn() -> Case:
    """vwxyzjn/cleanrl: Flax's defaults, and a target network that starts as a copy."""
    model = QNetwork()
    x, actions, _, rewards, following = steps_of_a_game()
    target = model.init(KEY, x[:2])

    def loss(params, x, actions, rewards, following):
        after: Any = model.apply(target, following)
        now: Any = model.apply(params, x)
        q = now[jnp.arange(len(x)), actions]
        return jnp.mean((q - rewards - 0.9 * jax.lax.stop_gradient(after.max(-1))) ** 2)

    data = x, actions, rewards, following
    return trained_by("DQN with a target network", "Linen", loss, target, data)


def sac_actor() -> Case:
    """Equinox: haarnoja/sac's actor, a tanh of a normal draw, with small heads of U(±.003)."""
    keys = jax.random.split(KEY, 3)
    trunk = eqx.nn.MLP(8, 64, 64, 1, activation=jax.nn.relu, final_activation=jax.nn.relu,
                       key=keys[0])  # fmt: skip
    heads = [jax.random.uniform(key, (64, 2), minval=-3e-3, maxval=3e-3) for key in keys[1:]]
    params, static = eqx.partition((trunk, heads), eqx.is_inexact_array)
    x = steps_of_a_game()[0]
    noise = jax.random.normal(jax.random.key(28), (len(x), 2))

    def loss(params, x, noise):
        trunk, heads = eqx.combine(params, static)
        h = jax.vmap(trunk)(x)
        mean, log_std = h @ heads[0], jnp.clip(h @ heads[1], -5, 2)
        raw = mean + jnp.exp(log_std) * noise
        action = jnp.tanh(raw)
        log_chance = (-0.5 * noise**2 - log_std - jnp.log(1 - action**2 + 1e-6)).sum(-1)
        value = -((action - jnp.tanh(x[:, :2])) ** 2).sum(-1)
        return (0.05 * log_chance - value).mean()

    return trained_by("SAC: actor", "Equinox", loss, params, (x, noise), FAST_ADAM)


def dlrm() -> Case:
    """Plain JAX: facebookresearch/dlrm, kernels N(0, 2 / (m + n)), biases N(0, 1 / m), tables
    U(-1 / √n, 1 / √n) of n rows."""
    keys = iter(jax.random.split(KEY, 20))

    def layers(sizes):
        return [
            {
                "w": (2 / (m + n)) ** 0.5 * jax.random.normal(next(keys), (m, n)),
                "b": n**-0.5 * jax.random.normal(next(keys), (n,)),
            }
            for m, n in itertools.pairwise(sizes)
        ]

    rows, size = (50, 200, 1000), 16
    params = {
        "bottom": layers((8, 64, size)),
        "tables": [n**-0.5 * jax.random.uniform(next(keys), (n, size), minval=-1.0) for n in rows],
        "top": layers((size + 6, 64, 1)),
    }
    dense = jax.random.normal(next(keys), (4096, 8))
    picks = jnp.stack([jax.random.randint(next(keys), (4096,), 0, n) for n in rows], -1)
    clicks = (dense[:, 0] + (picks[:, 0] % 2) > 0.5).astype(jnp.float32)

    def loss(params, dense, picks, clicks):
        x = jax.nn.relu(mlp(params["bottom"], dense, jax.nn.relu))
        vectors = [x, *(table[picks[:, i]] for i, table in enumerate(params["tables"]))]
        stack = jnp.stack(vectors, 1)
        products = jnp.einsum("bid,bjd->bij", stack, stack)[:, *jnp.tril_indices(4, -1)]
        logits = mlp(params["top"], jnp.concatenate([x, products], -1), jax.nn.relu)[:, 0]
        return optax.sigmoid_binary_cross_entropy(logits, clicks).mean()

    return trained_by("DLRM", "plain JAX", loss, params, (dense, picks, clicks))


SCIENCE = (
    pinn,
    neural_ode,
    hamiltonian,
    nerf,
    deep_sets,
    gcn,
    fourier_features,
    ppo,
    a2c,
    dqn,
    sac_actor,
    dlrm,
)
