"""Programs that run on shards are read as the same programs on one device."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from initjax import audit, fix, lecun_normal
from initjax.auditing._reading.trace import trace

MESH = AbstractMesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


@jax.custom_vjp
def straight_through(z):
    return jnp.round(4 * z) / 4


straight_through.defvjp(lambda z: (straight_through(z), z), lambda z, g: (g * (jnp.abs(z) < 2),))


@pytest.fixture
def params(key):
    keys = jax.random.split(key, 3)
    shapes = {"in": (8, 16), "mid": (16, 16), "out": (16, 1)}
    return {
        name: lecun_normal()(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def forward(params, x, collect=lambda product: product):
    h = jax.nn.relu(straight_through(x @ params["in"]))
    return jnp.tanh(collect(h @ params["mid"])) @ params["out"]


def whole(params, x):
    return jnp.square(forward(params, x) - 1).mean()


def sharded(params, x):
    def loss(params, x):
        return jax.lax.pmean(jnp.square(forward(params, x) - 1).mean(), ("data", "model"))

    axes = P(("data", "model"))
    return jax.shard_map(loss, mesh=MESH, in_specs=(P(), axes), out_specs=P())(params, x)


def tensor_parallel(params, x):
    def loss(params, x):
        z = forward(params, x, lambda product: jax.lax.psum(product, "model"))
        return jax.lax.pmean(jnp.square(z - 1).mean(), "data")

    specs = {"in": P(None, "model"), "mid": P("model"), "out": P()}
    f = jax.shard_map(loss, mesh=MESH, in_specs=(specs, P("data")), out_specs=P(), check_vma=False)
    return jax.jit(f)(params, x)


@pytest.mark.parametrize("loss_fn", [sharded, tensor_parallel])
def test_shards_are_read_as_one_network(loss_fn, params, key):
    x = jax.random.normal(key, (64, 8))
    report, expected = audit(loss_fn, params, x), audit(whole, params, x)
    assert report.verdict == expected.verdict == "ok"
    assert not report.unread
    for layer, other in zip(report.layers, expected.layers, strict=True):
        assert (layer.name, layer.units, layer.fan_in) == (other.name, other.units, other.fan_in)
        assert layer.rms == pytest.approx(other.rms, rel=1e-5)
        assert layer.gradient == pytest.approx(other.gradient, rel=1e-4, nan_ok=True)
        assert layer.activation == other.activation


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_arrays_on_a_mesh_go_with_what_was_traced_for_its_shards(kind, params, key):
    """JAX keeps the traces of functions, with literals of the mesh's type."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))

    def loss_fn(params, x):
        each = jax.shard_map(
            lambda params, x: jax.lax.pmean(whole(params, x), "data"),
            mesh=mesh,
            in_specs=(P(), P("data")),
            out_specs=P(),
        )
        return each(params, x)

    x = jax.random.normal(key, (64, 8))
    split = jax.device_put(x, NamedSharding(mesh, P("data")))
    on_mesh = jax.device_put(params, NamedSharding(mesh, P()))
    assert audit(loss_fn, on_mesh, split).verdict == "ok"
    assert audit(whole, params, x).verdict == "ok"


def test_what_vmap_cannot_do_is_named_as_unread(params, key):
    def loss_fn(params, x):
        def loss(params, x):
            grouped = jax.lax.psum(whole(params, x), "data", axis_index_groups=[[0], [1]])
            return jax.lax.pmean(grouped, ("data", "model"))

        f = jax.shard_map(
            loss, mesh=MESH, in_specs=(P(), P("data")), out_specs=P(), check_vma=False
        )
        return f(params, x)

    x = jax.random.normal(key, (64, 8))
    traced = trace("audit", loss_fn, params, (x,), False)
    assert "shard_map" in traced.anatomy.unread


def test_shards_of_arrays_whose_types_say_so_are_read_as_others(params, key):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    x = jax.random.normal(key, (64, 8))

    def plain(params, x):
        h = jnp.tanh((x @ params["in"]).reshape(len(x), 4, 4)).reshape(len(x), 16)
        return jnp.square(jnp.tanh(h @ params["mid"]) @ params["out"] - 1).mean()

    def loss_fn(params, x):
        def loss(params, x):
            return jax.lax.pmean(plain(params, x), "data")

        return jax.shard_map(loss, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())(params, x)

    split = jax.device_put(x, NamedSharding(mesh, P("data")))
    copied = jax.device_put(params, NamedSharding(mesh, P()))
    report, expected = audit(loss_fn, copied, split), audit(plain, params, x)
    assert report.verdict == "ok" and not report.unread
    assert [layer.rms for layer in report.layers] == pytest.approx(
        [layer.rms for layer in expected.layers]
    )
    fixed, repair = fix(loss_fn, {**copied, "in": 1e4 * copied["in"]}, split)
    assert repair.before.verdict == "failure" and audit(loss_fn, fixed, split).verdict == "ok"
