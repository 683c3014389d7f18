"""The graph of a program, and the values that a pass returns for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from initjax.auditing._measuring.passes import measurer
from initjax.auditing._measuring.watched import KINDS, Kind
from initjax.auditing._reading.inlined import body, inlined, place_of
from initjax.auditing._reading.trace import trace
from initjax.auditing._reading.watches import Watch


def _means(static, arrays, flat):
    del static, flat
    return {name: array.mean((-2, -1)) for name, array in arrays.items()}


def _place(value):
    place = place_of(value)
    assert place is not None
    return place


def _loss_fn(params, x, y):
    h, _ = jax.lax.scan(lambda h, w: (jax.nn.softmax(h @ w), None), x, params["body"])
    return jnp.square(jax.jit(jax.nn.relu)(h @ params["head"])[:, 0] - y).mean()


def _traced(key):
    params = {
        "body": jax.random.normal(key, (3, 8, 8)),
        "head": jax.random.normal(key, (8, 1)),
    }
    x = jax.random.normal(key, (16, 8))
    batch = x, x[:, 0]
    return trace("audit", _loss_fn, params, batch, False), params, batch


def test_calls_are_inlined_and_loops_are_single_nodes(key):
    traced, _, _ = _traced(key)
    graph = inlined(core.ClosedJaxpr(traced.jaxpr, traced.constants), 2)
    assert [node.name for node in graph.nodes[:3]] == ["scan", "dot_general", "max"]
    assert graph.nodes[2].operands[1].number == 0
    assert [value.parametric for value in graph.arguments] == [True, True, False, False]
    assert graph.results[0].node is graph.nodes[-1]
    inside = body(graph.nodes[0])
    assert inside.nodes[0].name == "dot_general"
    assert inside.nodes[0].path == (*graph.nodes[0].path, 0, 0)
    assert inside.nodes[0].results[0].users


def test_watched_values_are_measured_in_the_same_pass(key, monkeypatch):
    monkeypatch.setitem(KINDS, "few", Kind(lambda static, name, array: array[:4], _means))
    monkeypatch.setitem(KINDS, "all", Kind(lambda static, name, array: array, _means))
    traced, params, (x, y) = _traced(key)
    graph = inlined(core.ClosedJaxpr(traced.jaxpr, traced.constants), 2)
    inside = body(graph.nodes[0])
    softmax = next(node for node in inside.nodes if node.name == "div").results[0]
    relu = graph.nodes[2].results[0]
    places = {"softmax": _place(softmax), "carry": _place(inside.arguments[0])}
    watches = {
        "loop": Watch(places, "few"),
        "ends": Watch({"x": _place(graph.arguments[2]), "relu": _place(relu)}, "all"),
    }
    anatomy = dataclasses.replace(traced.anatomy, watches=watches)
    leaves = [params["body"], params["head"]]
    found = measurer(dataclasses.replace(traced, anatomy=anatomy)).measure(
        leaves, [x, y], traced.constants
    )
    h = [x]
    for w in params["body"]:
        h.append(jax.nn.softmax(h[-1] @ w))
    np.testing.assert_allclose(found.watched["loop"]["softmax"], 1 / 8, rtol=1e-5)
    carried = [array[:4].mean() for array in h[:3]]
    np.testing.assert_allclose(found.watched["loop"]["carry"], carried, rtol=1e-5)
    np.testing.assert_allclose(found.watched["ends"]["x"], x.mean(), rtol=1e-5)
    last = jax.nn.relu(h[-1] @ params["head"]).mean()
    np.testing.assert_allclose(found.watched["ends"]["relu"], last, rtol=1e-5)
