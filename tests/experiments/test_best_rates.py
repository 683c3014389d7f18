"""Best learning rates and their drift, from losses whose minima are known."""

import numpy as np
import pyarrow as pa
import pytest

from experiments.common import best_rates, transfer_picture, transfer_verdicts

SIZES = np.array([16, 32, 64, 128])
RATES = 2.0 ** np.arange(-12, -3)


def curves(scheme, drift, rng, noise=0.05, start=-8.0, seeds=5):
    """Losses with a minimum that moves as size^drift: 0.5 at the base network, then lower."""
    best = start + drift * np.log2(SIZES / SIZES[0])
    best = best[:, None, None] + rng.normal(0, noise, (len(SIZES), 1, seeds))
    lowest = 0.5 * (SIZES / SIZES[0])[:, None, None] ** -0.1
    losses = lowest * np.exp(0.05 * (np.log2(RATES)[None, :, None] - best) ** 2)
    return best_rates.Curves(scheme, SIZES, RATES, losses, 1.1 * losses)


def family(*all_curves, axis="width"):
    fields = {
        "model": "mlp", "residual": axis == "depth", "normalization": "none", "activation": "relu",
        "optimizer": "adam", "batch_size": 32, "epochs": 1, "steps": 300, "classes": 10,
    }  # fmt: skip
    seeds = list(range(all_curves[0].losses.shape[2]))
    return best_rates.Family(fields, axis, 3, seeds, list(all_curves), window=100)


def test_the_minimum_of_a_parabola_is_found_between_rates():
    x = np.arange(9.0)
    assert best_rates.lowest(x, np.exp((x - 3.3) ** 2)) == pytest.approx(3.3)
    assert best_rates.lowest(x, np.exp((x + 5.0) ** 2)) == 0  # not beyond the rates
    assert best_rates.lowest(x[:2], np.array([2.0, 1.0])) == 1


def test_the_drift_is_the_slope_over_size(rng):
    moved = curves("standard", -0.5, rng, noise=0.0)
    np.testing.assert_allclose(moved.slopes, -0.5)
    np.testing.assert_allclose([rate.value for rate in moved.best], 2**-8 * (SIZES / 16) ** -0.5)
    assert not moved.at_edge.any()


def test_sentences_follow_from_intervals(rng):
    one = family(curves("standard", -0.8, rng), curves("mup", 0.0, rng))
    standard, mup, lost, kept, grown, _, less, better = transfer_verdicts.conclusions(one)
    assert standard.startswith("standard: the best rate moves as width^-0.81 (-0.83 to -0.78)")
    assert mup.startswith("mup: the best rate stays within a factor of 2: width^")
    assert "(0.0039) gives training loss 0.542 instead of 0.409 at its own best (0.00" in lost
    assert "shown" not in lost
    assert kept.startswith("mup: at width 128, the best rate of 16 (0.0039) is also its own best")
    assert grown.startswith("standard: each at its own best rate, width 128 trains better than 16")
    assert "training loss 0.409 and 0.500" in grown
    assert less == "the best rate drifts less in mup than in standard: by 0.79 (0.77 to 0.82)"
    assert better.endswith("mup trains better than standard: training loss 0.406 and 0.409")


def test_what_is_not_shown_is_not_claimed(rng):
    little = curves("mup", 0.2, rng)
    assert "moves by less than a factor of 2, as width^0.19" in transfer_verdicts.drift(
        family(little), little
    )
    noisy = curves("mup", 0.0, rng)
    noisy.losses[...] *= np.exp(rng.normal(0, 0.3, noisy.losses.shape))
    assert "it is not settled whether" in transfer_verdicts.drift(family(noisy), noisy)
    beyond = curves("mup", -0.5, rng, start=-11.6)
    assert beyond.at_edge.tolist() == [True] * 4
    told = transfer_verdicts.drift(family(beyond), beyond)
    assert "no drift can be told" in told and "width 16, 32, 64, 128 is at the edge" in told
    (told,) = transfer_verdicts.conclusions(family(curves("mup", 0.0, rng, seeds=1)))
    assert told == "one seed shows no intervals: give --seeds=3 or more"


def test_equal_rates_are_not_told_apart(rng):
    """Without one seed, another rate is the best."""
    same = curves("mup", 0.0, rng, noise=0.0)
    same.losses[-1, 5] = same.losses[-1, 4] * [1.2, 0.99, 0.99, 0.99, 0.99]
    assert same.means[-1].argmin() == same.means[0].argmin() == 4
    assert not np.array_equal(same.at_best(-1, of=0).train, same.at_best(-1, of=-1).train)
    assert "is also its own best of those tried" in transfer_verdicts.cost(family(same), same)


def test_no_seed_chooses_its_own_rate(rng):
    """Of losses that are noise alone, the lowest is no better than any other."""
    found = []
    for noise in rng.normal(1.0, 0.1, (200, 2, 9, 4)):
        both = best_rates.Curves("mup", SIZES[[0, -1]], RATES, noise, 2 * noise)
        chosen = both.at_best(-1, of=-1)
        found.append(chosen.train.mean())
        np.testing.assert_array_equal(chosen.test, 2 * chosen.train)
    assert abs(np.mean(found) - 1) < 5 * np.std(found) / len(found) ** 0.5
    assert np.mean(found) > 0.97  # the lowest mean of nine is 0.93


def test_a_family_is_read_from_rows(row, rng):
    def rows(scheme, shift):
        for depth in (2, 4):
            for rate in (0.001, 0.002, 0.004):
                for seed in range(2):
                    loss = shift + abs(np.log2(rate / 0.002)) + seed / 10
                    yield row(
                        "zeros", seed, rng, key=f"{scheme} {depth} {rate} {seed}",
                        hidden=[8] * depth, residual=True, learning_rate=rate, scheme=scheme,
                        base=[8, 8], steps=150, epochs=1,
                        step_loss=np.r_[np.full(50, 9.0), np.full(100, loss)],
                        val_loss=[np.nan if rate == 0.004 else loss],
                    )  # fmt: skip

    table = pa.Table.from_pylist([*rows("mup", 1.0), *rows("standard", 0.5)])
    found = best_rates.family(table)
    assert (found.axis, found.fixed, found.seeds) == ("depth", 8, [0, 1])
    standard, mup = found.curves
    assert (standard.scheme, mup.scheme) == ("standard", "mup")
    assert found.loss == "training loss, mean of the last 100 steps"
    short = [one | {"step_loss": one["step_loss"][-20:]} for one in table.to_pylist()]
    brief = best_rates.family(pa.Table.from_pylist(short))
    assert brief.loss == "training loss, mean of the last 20 steps"
    assert mup.sizes.tolist() == [2, 4] and mup.rates.tolist() == [0.001, 0.002, 0.004]
    np.testing.assert_allclose(mup.losses[1].T, [[2, 1, 2], [2.1, 1.1, 2.1]])
    assert np.all(mup.test_losses[:, 2] == np.log(10))  # one that diverged


def test_a_family_is_drawn_and_told_in_80_columns(rng, tmp_path):
    one = family(curves("standard", -0.8, rng), curves("mup", 0.0, rng), axis="depth")
    transfer_picture.draw(tmp_path / "x.png", one)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    lines = transfer_verdicts.lines(one)
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "Residual MLP, width 3, relu; adam, batch 32, 300 steps; 5 seeds:"
    assert lines[3].split() == "depth best rate 95% interval loss test loss at base's rate".split()
