"""Verdicts are sentences that follow from the tests."""

import re

import numpy as np
import pytest

from experiments.common import comparison, sweep_directory, verdicts


def setting_of(directory, *rows):
    if rows:
        with sweep_directory.SweepDirectory(directory) as stored:
            stored.add(list(rows))
    (setting,) = comparison.settings(sweep_directory.read(directory))
    return setting


def test_the_summary_follows_from_the_tests(tmp_path, fill):
    fill(tmp_path)
    setting = setting_of(tmp_path)
    assert setting.inits == ["he_normal", "glorot_uniform", "zeros"] and len(setting.seeds) == 12
    words = verdicts.summary(setting)
    assert words[0].startswith("zeros: 0 of 12 runs learned anything (95% interval 0% to 2")
    assert re.fullmatch(
        r"he_normal is ahead of glorot_uniform in the first epoch by 0\.00[23]\d loss \(p .*\)",
        words[1],
    )
    assert re.fullmatch(
        r"he_normal is ahead of glorot_uniform after 2 epochs by 0\.0\d points \(p .*\),"
        r" but equivalent within 0.1 points",
        words[2],
    )
    assert len(words) == 3


def test_a_verdict_follows_from_the_adjusted_p_values(tmp_path, fill):
    fill(tmp_path)
    setting = setting_of(tmp_path)
    point = setting.endpoints["final_acc"]
    named = {pair[:2]: pair for pair in comparison.pairs(setting, "final_acc")}
    pair = named["he_normal", "glorot_uniform"]
    equal = pair._replace(p=0.3)
    assert verdicts.verdict(equal, point, "2 epochs") == (
        "he_normal and glorot_uniform are equivalent after 2 epochs within 0.1 points"
    )
    unsure = equal._replace(p_equivalence=0.2)
    detectable = 100 * pair.comparison.detectable
    assert verdicts.verdict(unsure, point, "2 epochs") == (
        "no difference between he_normal and glorot_uniform was found after 2 epochs; the tests had"
        f" 80% power to detect a difference of {detectable:.2f} points"
    )


@pytest.mark.parametrize(("endpoint", "ahead"), [("final_acc", "a"), ("final_loss", "b")])
def test_higher_accuracy_and_lower_loss_are_ahead(endpoint, ahead, tmp_path, row, rng):
    rows = [
        row("he_normal", seed, rng, init=init, val_acc=[0, 0, value], val_loss=[0, 0, value])
        for init, level in (("ones", 0.9), ("zeros", 0.8))
        for seed, value in enumerate(level + rng.normal(0, 0.001, 6))
    ]
    setting = setting_of(tmp_path, *rows)
    (pair,) = comparison.pairs(setting, endpoint)
    better = {"a": "ones", "b": "zeros"}[ahead]
    assert verdicts.verdict(pair, setting.endpoints[endpoint], "2 epochs").startswith(
        f"{better} is ahead of "
    )


def differing(directory, row, rng, differences):
    """A setting of two initializers whose accuracies differ by these numbers of test images."""
    base = rng.integers(9700, 9800, len(differences))
    rows = [
        row("he_normal", seed, rng, init=init, val_acc=[0, 0, float(images) / 10_000])
        for init, extra in (("ones", differences), ("zeros", np.zeros(len(differences), int)))
        for seed, images in enumerate(base + extra)
    ]
    return setting_of(directory, *rows)


def test_a_difference_that_only_one_test_finds_is_not_settled(tmp_path, row, rng):
    setting = differing(tmp_path, row, rng, [16, 30, 12, 20, 30, -2])
    (pair,) = comparison.pairs(setting, "final_acc")
    assert pair.p == pytest.approx(0.016, abs=0.001)
    assert pair.comparison.p_sign_flip == 0.0625
    text = verdicts.verdict(pair, setting.endpoints["final_acc"], "2 epochs")
    assert text == (
        "not settled: whether ones is ahead of zeros after 2 epochs by 0.18 points"
        " (p = 0.016 by the t test, 0.062 by sign flips); about 7 seeds would settle it"
    )
    assert text in verdicts.summary(setting) and " ahead of zeros" not in verdicts.headline(setting)
    # A seventh seed like the others does settle it.
    more = differing(tmp_path / "more", row, rng, [16, 30, 12, 20, 30, -2, 18])
    assert any(text.startswith("ones is ahead of zeros") for text in verdicts.summary(more))
    assert "ones is the best of 2: it has" in verdicts.headline(more)


def test_few_seeds_settle_nothing_however_small_the_p_value(tmp_path, row, rng):
    setting = differing(tmp_path, row, rng, [900, 901, 903])
    (pair,) = comparison.pairs(setting, "final_acc")
    assert pair.p < 1e-5 and verdicts.finding(pair, setting.endpoints["final_acc"])[0] == (
        "not settled"
    )
    words = verdicts.summary(setting)
    assert words[0] == "3 seeds settle nothing, since the sign-flip test needs 6"
    assert words[-1].endswith("; about 6 seeds would settle it")


def test_one_image_and_rounding_of_losses_are_no_difference(tmp_path, row, rng):
    setting = differing(tmp_path, row, rng, [1] * 20)
    (pair,) = comparison.pairs(setting, "final_acc")
    assert pair.p == pair.comparison.p_sign_flip == 1
    rows = [
        row("he_normal", seed, rng, init=init, val_loss=[0, 0, float(np.float32(0.3) + ulps)])
        for init, ulps in (("ones", 3e-8), ("zeros", 0))
        for seed in range(20)
    ]
    setting = setting_of(tmp_path / "losses", *rows)
    (pair,) = comparison.pairs(setting, "final_loss")
    assert pair.comparison.difference.value != 0 and pair.p == pair.comparison.p_sign_flip == 1


def test_initializers_with_the_same_result_share_a_sentence(tmp_path, row, rng):
    shifts = {"normal(1)": 0, "normal(2)": 0, "normal(3)": 0, "normal(4)": 0.1, "normal(5)": 0.2}
    rows = [
        row("he_normal", seed, rng, init=init, loss=[0.3 + shift + noise, 0.1], val_acc=[0, 0, acc])
        for init, shift in shifts.items()
        for seed, (noise, acc) in enumerate(
            zip(rng.normal(0, 0.001, 8), 0.97 - shift / 10 + rng.normal(0, 0.02, 8), strict=True)
        )
    ]
    words = verdicts.summary(setting_of(tmp_path, *rows))
    first = [sentence for sentence in words if "in the first epoch" in sentence]
    assert len(first) == 2 and len(words) <= 4
    alike, ahead = first
    assert re.match(
        r"no difference between normal\(\d\) and normal\(\d\) or normal\(\d\) was", alike
    )
    assert re.fullmatch(
        r"normal\(\d\) is ahead in the first epoch: of normal\(4\) by 0\.\d+ loss \(p .*\);"
        r" of normal\(5\) by 0\.\d+ loss \(p .*\)",
        ahead,
    )


def test_lines_fit_a_terminal_whatever_the_names_are(tmp_path, row, rng):
    name = "variance_scaling(0.123456789, 'fan_geo_avg', 'truncated_normal')"
    rows = [
        row("he_normal", seed, rng, init=init, learning_rate=rate)
        for seed in range(3)
        for init in ("he_normal", name)
        for rate in (0.001, 0.01)
    ]
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add(rows)
    found = comparison.settings(sweep_directory.read(tmp_path))
    lines = [line for setting in found for line in verdicts.lines(setting)]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("he_normal @ 0.0") for line in lines)
    single = verdicts.lines(setting_of(tmp_path / "one", row("he_normal", 0, rng)))
    assert not any("±" in line or "nan" in line for line in single)


def test_lines_fit_a_terminal_whatever_the_losses_are(tmp_path, row, rng):
    rows = [
        row("he_normal", seed, rng, init=init, epochs=10**6, loss=[loss, loss], val_loss=[loss] * 3)
        for seed in range(3)
        for init, scale in (("variance_scaling(2.0)", 1), ("glorot_uniform", 1e30), ("ones", 2e5))
        for loss in (scale * rng.uniform(1, 2),)
    ]
    lines = verdicts.lines(setting_of(tmp_path, *rows))
    assert max(map(len, lines)) <= 80
    assert any("e+30 ±" in line for line in lines)


def test_a_description_mentions_only_unusual_initializers(tmp_path, row, rng):
    setting = setting_of(tmp_path, row("he_normal", 0, rng, output_init="zeros", hidden=[]))
    assert verdicts.describe(setting.fields) == (
        "mnist, MLP without hidden layers, relu, float32; adam 0.001, batch 128, 2 epochs;"
        " output zeros"
    )
    assert np.isfinite(setting.values["final_acc"]).all()


def test_initializers_without_shared_seeds_are_not_compared_and_it_is_said(tmp_path, row, rng):
    rows = [
        row("he_normal", seed, rng, init=init, val_acc=[0, 0, level + rng.normal(0, 0.001)])
        for init, level, seeds in (("ones", 0.9, range(8)), ("zeros", 0.8, range(7, 15)))
        for seed in seeds
    ]
    setting = setting_of(tmp_path, *rows)
    assert verdicts.headline(setting).endswith(
        "; it shares too few seeds with zeros to be compared"
    )
    assert verdicts.summary(setting) == [
        "ones and zeros are not compared, since they share fewer than two seeds"
    ]


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.01), (3, 0), (8, 0)])
def test_no_power_is_claimed_for_few_seeds_or_equal_results(seeds, spread, tmp_path, row, rng):
    levels = 0.9 + rng.normal(0, 0.01, seeds)
    rows = [
        row("he_normal", seed, rng, init=init, val_acc=[0, 0, value], loss=[value, value])
        for init in ("ones", "zeros")
        for seed, value in enumerate(levels + rng.normal(0, 1, seeds) * spread)
    ]
    words = verdicts.summary(setting_of(tmp_path, *rows))
    assert any(sentence.startswith("no difference between ones and zeros") for sentence in words)
    assert not any("power" in sentence for sentence in words)


def test_a_single_initializer_leaves_nothing_to_settle(tmp_path, row, rng):
    setting = setting_of(tmp_path, *(row("he_normal", seed, rng) for seed in range(3)))
    assert not any("settle" in sentence for sentence in verdicts.summary(setting))
