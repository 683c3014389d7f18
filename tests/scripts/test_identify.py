"""The table of what draws are taken for: right about some draws, and as good as it says."""

import importlib
import pathlib
import re

import pytest

import initjax

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("identify")


def test_it_counts_what_is_named_what_is_open_and_what_is_wrong():
    cells, wrong = script.row("he_normal", (64, 128), 4)
    assert cells == ["`he_normal`", "64 x 128", "4", "0", "0", "0"] and wrong == 0
    cells, wrong = script.row("he_normal", (8, 16), 4)
    assert cells[2:] == ["0", "4", "0", "0"] and wrong == 0
    cells, _ = script.row("bounded_normal(1.0, 0.5, 0.0, inf)", (16, 64), 4)
    assert cells[5] == "normal off center 4"


def test_every_initializer_that_is_drawn_can_be_parsed():
    for spec in (*script.RANDOM, *script.FIXED):
        initjax.parse(spec)


def test_the_measured_rate_is_the_one_that_is_stated():
    text = (SCRIPTS / "results/identify.md").read_text()
    draws, wrong = map(int, re.findall(r"known laws: (\d+)\. .*? otherwise in (\d+) ", text)[0])
    assert draws > 10_000 and wrong <= draws / 1000 + 3 * (draws / 1000) ** 0.5
