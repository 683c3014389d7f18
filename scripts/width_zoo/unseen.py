"""Cases that no rule of the check was made on, one per function; labels as in `planted.py`."""

import dataclasses

import optax

from . import right
from .cases import Case, Label, Mistake
from .planted import LATER, RATE, START, STDDEV


def experts_sgd() -> Case:
    return dataclasses.replace(right.experts(), rule="sgd", optimizer=optax.sgd(0.1))


def stacked_lion() -> Case:
    return dataclasses.replace(right.stacked(), rule="lion", optimizer=optax.lion(3e-4))


def router_rate() -> Case:
    return right.experts().wrong(
        "Adam's rate not divided by width, router",
        Mistake(RATE, 1.0, "router"),
        Label("router", RATE, "grows", LATER),
    )


def position_rate() -> Case:
    return right.many_heads().wrong(
        "positions trained as a hidden kernel",
        Mistake(RATE, -1.0, "*/positions"),
        Label("*/positions", RATE, "shrinks", LATER),
    )


def double_rate() -> Case:
    return right.wide_heads().wrong(
        "Adam's rate divided by width twice, end of the feed-forward block",
        Mistake(RATE, -1.0, "*/down0/kernel"),
        Label("*/down0/kernel", RATE, "shrinks", LATER),
    )


def packed_stddev() -> Case:
    return right.tied().wrong(
        "one stddev for the packed queries, keys and values at all widths",
        Mistake(STDDEV, 0.5, "blocks/*/qkv"),
        Label("blocks/*/qkv", STDDEV, "grows", START),
    )


def output_rate_sgd() -> Case:
    case = dataclasses.replace(right.gru(), rule="sgd", optimizer=optax.sgd(0.1))
    return case.wrong(
        "SGD's rate of the output not divided by width",
        Mistake(RATE, 1.0, "head/kernel"),
        Label("head/kernel", RATE, "grows", LATER),
    )


UNSEEN = (
    experts_sgd,
    stacked_lion,
    router_rate,
    position_rate,
    double_rate,
    packed_stddev,
    output_rate_sgd,
)
