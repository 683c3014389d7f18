"""A case of the zoo: a model at any width, how it is parametrized, and what is wrong with it."""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import optax
from audit_zoo.cases import mnist, periodic_tokens, point_sets

import initjax

Apply = Callable[..., jax.Array]  # maps (params, inputs) to logits
Init = Callable[[jax.Array], Any]  # maps a key to parameters
Role = Literal["input", "embedding", "hidden", "output", "tied", "vector", "scalar"]
Scheme = Literal["standard", "ntk", "mup", "spectral", "u_mup"]
Rule = Literal["sgd", "momentum", "adam", "adamw", "lion", "muon"]
Data = tuple[jax.Array, jax.Array]
_BATCH = 64


class Factors(NamedTuple):
    """What the forward pass of a model multiplies by; all 1 in the base model."""

    logits: float = 1.0
    attention: float = 1.0
    products: Mapping[str, float] = {}  # by the path of a kernel

    def product(self, path: str) -> float:
        return self.products.get(path, 1.0)


Model = Callable[[int, Factors], tuple[Apply, Init]]


class Mistake(NamedTuple):
    """A power of the ratio of widths that something is multiplied by, and should not be."""

    what: Literal["stddev", "learning_rate", "logits", "attention"]
    power: float
    where: str = "*"  # which parameters, as a pattern of their paths


class Label(NamedTuple):
    """What a check should tell. Written before the check was run."""

    layer: str  # a pattern of the layer's name
    cause: Literal["stddev", "learning_rate", "multiplier", "scores"]
    direction: Literal["grows", "shrinks"]
    when: Literal["at the start", "after steps"]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A model at several widths.

    Attributes:
        name: what the model is.
        writing: what it is written in.
        model: maps a width and factors to the model and what makes its parameters.
        data: a batch of inputs and labels.
        rule: the optimizer's name in `parametrize`.
        optimizer: what the base model is trained with.
        scheme: the parametrization.
        widths: increasing.
        head_size: maps a width to the size of an attention head, if that grows.
        roles: what shapes don't tell.
        laws: the base model's initializers that are not LeCun's.
        error: what is wrong; "" if nothing is.
        mistakes: the same, for the program.
        labels: what a check should tell.
    """

    name: str
    writing: str
    model: Model
    data: Data
    rule: Rule = "adam"
    optimizer: optax.GradientTransformation = optax.adam(1e-3)  # noqa: RUF009
    scheme: Scheme = "mup"
    widths: tuple[int, ...] = (64, 512)
    head_size: Callable[[int], int] | None = None
    roles: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    laws: Mapping[str, initjax.Initializer] = dataclasses.field(default_factory=dict)
    error: str = ""
    mistakes: tuple[Mistake, ...] = ()
    labels: tuple[Label, ...] = ()

    def wrong(self, error: str, *parts: Mistake | Label, **changes: Any) -> "Case":
        """The same with an error."""
        mistakes = tuple(part for part in parts if isinstance(part, Mistake))
        labels = tuple(part for part in parts if isinstance(part, Label))
        return dataclasses.replace(self, error=error, mistakes=mistakes, labels=labels, **changes)

    def mended(self, *mistakes: Mistake) -> "Case":
        """The same with more factors: what a remedy says."""
        return dataclasses.replace(self, mistakes=(*self.mistakes, *mistakes))

    @property
    def base(self) -> int:
        """The width of the base model."""
        return self.widths[0] // 2

    @functools.cache  # noqa: B019 - cases live as long as the program
    def plan(self, width: int) -> initjax.Plan:
        base = self.base
        sizes = self.head_size and (self.head_size(base), self.head_size(width))
        shapes, base_shapes = (
            jax.eval_shape(self.model(size, Factors())[1], jax.random.key(0))
            for size in (width, base)
        )
        return initjax.parametrize(
            shapes,
            base_shapes,
            scheme=self.scheme,
            optimizer=self.rule,
            roles=self.roles,
            head_size=sizes,
            init=self.laws,
        )

    def make(self, width: int, key: jax.Array) -> tuple[Callable[..., jax.Array], Any, Data]:
        """The loss, the parameters and a batch: what `initjax.coordinate_check` takes."""
        loss_fn, draw = self._functions(width)
        return loss_fn, draw(key), self.data

    @functools.cache  # noqa: B019 - compiled once for all keys
    def _functions(self, width: int) -> tuple[Callable[..., jax.Array], Init]:
        plan = self.plan(width)
        factors = Factors(
            plan.multipliers["logits"].value * self._factor("logits", width),
            plan.multipliers["attention"].value * self._factor("attention", width),
            {leaf.path: leaf.multiplier for leaf in plan.leaves},
        )
        apply, init = self.model(width, factors)
        scales = self._scales("stddev", width, plan)

        @jax.jit
        def draw(key: jax.Array) -> Any:
            own_key, plan_key = jax.random.split(key)
            return _scaled(initjax.initialize(init(own_key), plan_key, plan.rules), scales)

        def loss_fn(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
            logits = apply(params, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return loss_fn, draw

    def optimizer_at(self, width: int) -> optax.GradientTransformation:
        plan = self.plan(width)
        scales = self._scales("learning_rate", width, plan)
        more = optax.stateless(lambda updates, _: _scaled(updates, scales))
        return optax.chain(plan.transform(self.optimizer), more)

    def _scales(self, what: str, width: int, plan: initjax.Plan) -> list[float]:
        return [self._factor(what, width, leaf.path) for leaf in plan.leaves]

    def _factor(self, what: str, width: int, path: str = "") -> float:
        powers = (
            mistake.power
            for mistake in self.mistakes
            if mistake.what == what and fnmatch.fnmatch(path, mistake.where)
        )
        return (width / self.base) ** sum(powers)


def _scaled(tree: Any, scales: list[float]) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([x * f for x, f in zip(leaves, scales, strict=True)])


@functools.cache
def digits(size: int = 14) -> Data:
    """Standardized images (batch, size, size, 1), each pixel of every 28 / size, and labels."""
    images, labels = mnist("standard")
    step = 28 // size
    return images[:_BATCH, step // 2 :: step, step // 2 :: step], labels[:_BATCH]


@functools.cache
def tokens() -> Data:
    """Sequences with a period of 4, and the next tokens."""
    now, following = periodic_tokens(32, 16)
    return now[:_BATCH], following[:_BATCH]


@functools.cache
def points() -> Data:
    """Sets of points, and in which of four directions they lie."""
    sets, labels = point_sets(8)
    return sets[:_BATCH], labels[:_BATCH]
