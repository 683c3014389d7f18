"""Training: every example counts once, and one program serves all initializers."""

import collections
import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import initjax
from experiments.common import batching, data, fitting, many_runs, models, tasks, training


@pytest.fixture(scope="module")
def digits():
    """1,000 training and 300 test images of MNIST; the batch size divides neither."""
    mnist = data.load()
    return (
        (mnist.train_images[:1000], mnist.train_labels[:1000]),
        (mnist.test_images[:300], mnist.test_labels[:300]),
    )


MODEL = models.mlp((784, 16, 10), "relu", "float32")
TASK = tasks.classification(MODEL.apply)


def draw(spec="he_normal", seed=0):
    rules = {"*bias": initjax.zeros, "*": initjax.parse(spec)}
    return initjax.initialize(MODEL.shapes, jax.random.key(seed), rules)


def fit(digits, spec="he_normal", **options):
    settings = {"epochs": 2, "batch_size": 128, "optimizer": "adam", **options}
    optimizer = settings.pop("optimizer")
    run = optimizer, 1e-3, draw(spec), jax.random.key(1)
    epochs = fitting.fit(TASK, *run, *digits, **settings)
    return [epoch._replace(params=jax.device_get(epoch.params)) for epoch in epochs]


@pytest.mark.parametrize(("examples", "batch_size"), [(1000, 128), (5, 8), (12, 4), (7, 1)])
def test_an_epoch_holds_every_example_once(examples, batch_size, key):
    batches = np.asarray(batching.shuffled_batches(key, examples, batch_size))
    assert batches.shape == (-(-examples // batch_size), batch_size)
    counts = collections.Counter(batches.ravel().tolist())
    padding = batches.size - examples
    assert counts == {i: 1 for i in range(examples)} | ({examples: padding} if padding else {})
    assert (batches[:-1] < examples).all()


@pytest.mark.parametrize("examples", [4, 5, 6])
def test_every_order_is_equally_likely(examples):
    """Chi-square over all n! orders, at p > 1e-4."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    shuffle = jax.vmap(lambda key: batching.shuffled_batches(key, examples, examples)[0])
    counts = collections.Counter(map(tuple, np.asarray(shuffle(keys)).tolist()))
    observed = [*counts.values(), *[0] * (math.factorial(examples) - len(counts))]
    assert scipy.stats.chisquare(observed).pvalue > 1e-4


def test_the_order_is_random_and_determined_by_its_key(key):
    first = batching.shuffled_batches(key, 1000, 10)
    np.testing.assert_array_equal(first, batching.shuffled_batches(key, 1000, 10))
    other = batching.shuffled_batches(jax.random.key(7), 1000, 10)
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.15
    assert abs(np.corrcoef(first.ravel(), np.arange(1000))[0, 1]) < 0.15


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("adam", optax.adam(1e-3)),
        ("sgd", optax.sgd(1e-3)),
        ("momentum", optax.sgd(1e-3, momentum=0.9)),
    ],
)
def test_an_epoch_equals_a_plain_loop_over_its_batches(digits, name, optimizer):
    """The scan against a plain Python loop, including the partial batch and the means."""
    (images, labels), _ = digits
    params, opt_state = draw(), optimizer.init(draw())
    batches = batching.shuffled_batches(jax.random.fold_in(jax.random.key(1), 1), 1000, 128)
    order = np.asarray(batches).ravel()[:1000]
    losses, accuracies = [], []

    @jax.jit
    def gradient(params, x, y):
        def loss(params):
            logits = MODEL.apply(params, x)
            each = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return each.mean(), (each, logits.argmax(-1) == y)

        return jax.grad(loss, has_aux=True)(params)

    for batch in np.split(order, range(128, 1000, 128)):
        grads, (each, right) = gradient(params, images[batch], labels[batch])
        losses += each.tolist()
        accuracies += right.tolist()
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)

    epoch = fit(digits, epochs=1, optimizer=name)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), epoch.params, params)
    assert epoch.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert epoch.metrics["acc"] == np.mean(accuracies)
    assert epoch.batch_metrics is not None
    np.testing.assert_allclose(epoch.batch_metrics.loss[-1], np.mean(losses[896:]), rtol=1e-4)
    assert epoch.batch_metrics.correct[-1] == np.mean(accuracies[896:])


def test_evaluation_counts_every_image_once(digits):
    params = draw()
    images, labels = (jnp.asarray(np.repeat(part, 5, axis=0)) for part in digits[1])  # 1500
    sums = training.evaluate(params, (images, labels), task=TASK)
    logits = MODEL.apply(params, images)
    assert int(sums.correct.sum()) == int((logits.argmax(-1) == labels).sum())
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
    assert float(sums.loss.sum()) == pytest.approx(float(expected), rel=1e-5)


def test_training_learns_and_epoch_0_is_before_training(digits):
    start, *_, end = fit(digits, epochs=10)
    assert start.number == 0 and start.metrics.keys() == {"val_loss", "val_acc"}
    assert end.metrics["loss"] < np.log(10) < start.metrics["val_loss"] + 0.5
    assert end.metrics["val_acc"] > 0.6 > start.metrics["val_acc"]


def test_watching_changes_no_bit_of_training(digits):
    calls = []
    plain = fit(digits)
    watched = fit(digits, watch=lambda *arguments: calls.append(arguments))
    for a, b in zip(plain, watched, strict=True):
        assert a.metrics == b.metrics
        jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert [(epoch, done, steps) for epoch, done, steps, _ in calls[:3]] == [
        (1, 0, 8), (1, 1, 8), (1, 2, 8),
    ]  # fmt: skip
    assert calls[0][3] == {} and calls[1][3].keys() == {"loss", "acc"}


@pytest.mark.parametrize("every", [1, 3, 8, 13, 1000])
@pytest.mark.parametrize("watch", [None, lambda *_: None])
def test_inspecting_the_parameters_changes_no_bit_of_training(digits, watch, every):
    """Two epochs of 8 steps each, inspected at their ends and in their middle."""
    seen = {}

    def inspect(step, params):
        seen[step] = jax.device_get(params)

    plain = fit(digits)
    inspected = fit(digits, watch=watch, inspect=inspect, inspect_every=every)
    for a, b in zip(plain, inspected, strict=True):
        assert a.metrics == b.metrics
        jax.tree.map(np.testing.assert_array_equal, (a.params, a.batch_metrics), b[3:1:-1])
    assert [*seen] == [*range(0, 17, every)]
    for step in {0, 8, 16} & seen.keys():
        jax.tree.map(np.testing.assert_array_equal, seen[step], plain[step // 8].params)
    assert len({str(params) for params in seen.values()}) == len(seen)


@pytest.mark.parametrize("every", [None, 3])
def test_a_training_resumed_at_any_point_ends_with_the_same_bits(digits, every, monkeypatch):
    """Two epochs of 8 steps each, with a pause after every 2 steps, or also after each third."""
    monkeypatch.setattr(fitting, "_FIRST_STEPS", 2)
    monkeypatch.setattr(fitting, "_PAUSE_SECONDS", 0)
    plain = fit(digits)
    points = []
    paused = fit(
        digits, pause=lambda point: points.append(jax.device_get(point)), pause_every=every
    )
    places = [(point.epoch, point.step) for point in points]
    assert len(places) == len(set(places)) and places == sorted(places)
    assert {(2, 0), (3, 0)} <= set(places) and (
        not every or {(1, 3), (1, 6), (2, 1)} <= set(places)
    )
    for number, point in enumerate([None, *points]):
        if number % 3 == 0:
            resumed = paused if point is None else fit(digits, resume=jax.device_put(point))
            assert [epoch.number for epoch in resumed] == list(
                range(point.epoch if point else 0, 3)
            )
            for a, b in zip(plain[-len(resumed) :] if resumed else [], resumed, strict=True):
                assert a.metrics == b.metrics
                jax.tree.map(np.testing.assert_array_equal, a.batch_metrics, b.batch_metrics)
                jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_the_time_of_an_epoch_does_not_include_inspections(digits):
    fit(digits, epochs=1, inspect=lambda *_: None, inspect_every=4)  # compiles
    _, epoch = fit(digits, epochs=1, inspect=lambda *_: time.sleep(2), inspect_every=4)
    assert epoch.seconds < 2


@pytest.mark.parametrize("steps", [1, 2, 5, 13, 67, 391, 469, 937])
def test_the_parts_of_an_epoch_have_at_most_two_lengths(steps):
    ends = fitting._about_ten_ends(steps)
    lengths = np.diff([0, *ends])
    assert ends[-1] == steps and lengths.min() >= 1
    assert len({*lengths}) <= 2 and len(lengths) <= 12
    if steps == 469:  # MNIST in batches of 128
        assert {*lengths} == {67}


def test_one_compiled_program_serves_all_spans_of_an_epoch(digits):
    def programs():
        return training.train_span._cache_size()  # pyright: ignore[reportAttributeAccessIssue]

    fit(digits, inspect=lambda *_: None, inspect_every=3)
    compiled = programs()
    fit(digits, inspect=lambda *_: None, inspect_every=5, watch=lambda *_: None)
    assert programs() == compiled


def test_runs_trained_together_equal_runs_trained_one_after_another(digits, monkeypatch):
    """The way of accelerators, run on a CPU with a batch that is not full: equal up to rounding."""
    specs, rates, count = ["he_normal", "glorot_uniform", "zeros"], [1e-3, 1e-2, 1.0], 2
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(draw, specs))
    keys = jax.random.split(jax.random.key(1), 3)
    mesh = jax.make_mesh((1,), ("runs",))
    batch = (jnp.array([count], jnp.int32), jnp.array(rates), keys)
    counts, *batch = jax.device_put(batch, jax.NamedSharding(mesh, jax.P("runs")))
    sets = jax.device_put(digits, jax.NamedSharding(mesh, jax.P()))
    settings = {"task": TASK, "optimizer": "adam", "epochs": 2, "batch_size": 128}
    one = many_runs.run_shapes(draw("zeros"), *sets, **settings)

    def train(*ends):
        many_runs.train_runs.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]
        stand = jax.tree.map(lambda leaf: jnp.zeros((3, *leaf.shape), leaf.dtype), one)
        stand = stand._replace(state=stand.state._replace(params=jax.tree.map(jnp.copy, params)))
        stand = jax.device_put(stand, jax.NamedSharding(mesh, jax.P("runs")))
        for first, last in itertools.pairwise((0, *ends)):
            stand = many_runs.train_runs(
                *(counts, stand, *batch, *sets, first, last), **settings, mesh=mesh
            )
        return stand.history

    one_by_one = train(16)  # two epochs of eight steps
    for whole, parts in zip(
        jax.tree.leaves(one_by_one), jax.tree.leaves(train(1, 5, 8, 13, 16)), strict=True
    ):
        np.testing.assert_array_equal(whole, parts)
    monkeypatch.setattr(training.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(many_runs, "_SPAN_STEPS", 2)
    together = train(6, 16)
    monkeypatch.undo()
    many_runs.train_runs.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]
    for name, (loss, correct), (loss_together, correct_together) in zip(
        many_runs.History._fields, one_by_one, together, strict=True
    ):
        assert loss.shape[:2] == (3, {"batches": 2, "tests": 3}[name])
        np.testing.assert_allclose(loss_together[:count], loss[:count], rtol=1e-3)
        np.testing.assert_allclose(correct_together[:count], correct[:count], atol=2)
    # Each at its own rate, from its own parameters; and only here the third is trained at all.
    losses = np.asarray(together.batches.loss.sum(axis=(1, 2)))
    assert losses[1] < 0.8 * losses[0]
    assert not one_by_one.batches.loss[count:].any() and together.batches.loss[count:].all()


@pytest.mark.parametrize(("steps", "span"), [(469, 67), (300, 30), (938, 67), (7, 7), (10007, 1)])
def test_runs_that_are_trained_together_are_paused_after_a_span(steps, span, monkeypatch):
    assert many_runs.span_steps(steps) == 1
    monkeypatch.setattr(training.jax, "default_backend", lambda: "gpu")
    assert many_runs.span_steps(steps) == span


def test_one_compiled_program_serves_every_initializer(digits):
    def programs():
        return training.train._cache_size()  # pyright: ignore[reportAttributeAccessIssue]

    fit(digits, "he_normal", epochs=1)
    compiled = programs()
    fit(digits, "orthogonal", epochs=1)
    fit(digits, "zeros", epochs=1)
    assert programs() == compiled


def test_data_are_arguments_of_the_program_and_the_state_is_donated(digits):
    (images, labels), _ = digits
    state = training.State(draw(), optax.adam(1e-3).init(draw()))
    batches = batching.shuffled_batches(jax.random.key(0), 1000, 128)
    arrays = (jnp.asarray(images), jnp.asarray(labels)), batches
    lowered = training.train.lower(state, 1e-3, *arrays, task=TASK, optimizer="adam")
    assert len(lowered.as_text()) < 100_000  # 784,000 pixels would be more
    assert lowered.as_text().count("tf.aliasing_output") == len(jax.tree.leaves(state))


def test_with_zeros_only_the_last_bias_is_trained(digits):
    params = fit(digits, "zeros")[-1].params
    assert not params["hidden"][0]["kernel"].any() and not params["output"]["kernel"].any()
    assert params["output"]["bias"].all()


def test_steps_are_trained_across_epochs():
    key = jax.random.key(0)
    batches = np.asarray(batching.batch_order(key, 1, 10, 4, 7))
    assert batches.shape == (7, 4)
    np.testing.assert_array_equal(batches[:3], batching.batch_order(key, 1, 10, 4, 3))
    np.testing.assert_array_equal(batches[3:6], batching.batch_order(key, 2, 10, 4, 3))
    assert batching.batch_sizes(10, 4, 7).tolist() == [4, 4, 2, 4, 4, 2, 4]
    assert [(batch < 10).sum() for batch in batches] == [4, 4, 2, 4, 4, 2, 4]
