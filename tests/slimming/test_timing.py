"""The verdict on time: honest about noise, fair in its rounds."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from dojang.slimming.timing import Saving, interleave, saving, sign_test_rank


def test_noise_is_called_a_saving_no_more_often_than_stated():
    rng = np.random.default_rng(0)
    calls = 0
    for _ in range(2000):
        a, b = rng.lognormal(0, 0.5, (2, 15))
        calls += saving(a.tolist(), b.tolist()).real
    assert calls / 2000 < 0.025 + 0.01


def test_a_saving_under_common_disturbance_is_seen():
    rng = np.random.default_rng(1)
    slow = rng.lognormal(0, 1, 21)  # whatever slows both
    found = saving((slow + 0.10).tolist(), (slow + 0.08).tolist())
    assert found.real
    assert found.ms == pytest.approx(0.02)


def test_few_rounds_prove_nothing_but_a_count_is_exact():
    assert not saving([2, 2, 2], [1, 1, 1]).real
    assert saving([2], [1]).real
    assert not saving([1], [1]).real


@pytest.mark.parametrize("n", range(1, 60))
def test_the_rank_follows_the_binomial(n):
    k = sign_test_rank(n)
    below = [sum(comb(n, i) for i in range(j + 1)) / 2**n for j in range(n)]
    if k is None:
        assert below[0] > 0.025 or n < 2
    else:
        assert below[k] <= 0.025
        assert k + 1 >= n // 2 or below[k + 1] > 0.025


def test_rounds_interleave_and_repeat_alike():
    order = []
    now = [0.0]

    def clock():
        return now[0]

    def job(name, ms):
        def run():
            order.append(name)
            now[0] += ms / 1e3

        return run

    times = interleave([job("a", 0.5), job("b", 1.0)], rounds=4, warm_up=1, clock=clock)
    np.testing.assert_allclose(times, [[0.5] * 4, [1.0] * 4])
    rounds = order[4:]  # after warm-up and the probe of each
    assert len(rounds) == 4 * 2 * 4  # 4 repeats fill 2 ms for the quicker one
    assert rounds[:8] == ["a"] * 4 + ["b"] * 4
    assert rounds[8:16] == ["b"] * 4 + ["a"] * 4


def busy(ms, shares, seed):
    """Jobs of so many milliseconds, and a clock: now and then another program has the processor for a while."""
    rng, now = np.random.default_rng(seed), [0.0]

    def job(length, share):
        def run():
            now[0] += length / 1e3 * (rng.uniform(1.5, 6) if rng.random() < share else rng.uniform(1, 1.01))

        return run

    return [job(*pair) for pair in zip(ms, shares, strict=True)], lambda: now[0]


def test_a_busy_machine_does_not_decide():
    """One network meets with others more often than the other; both are told by what they take when let alone."""
    for seed in range(20):
        runs, clock = busy((3.0, 2.9), (0.2, 0.6), seed)
        times = interleave(runs, rounds=15, clock=clock)
        found = saving(*times)
        assert found.real
        assert found.ms == pytest.approx(0.1, abs=0.03)


def test_what_is_said_of_a_saving_that_is_not_real():
    """An interval below zero means slower; only one that contains zero is called noise."""
    slower = Saving(-0.00988, -0.01177, -0.0041, 0.0665, 0.07638)
    assert slower.refusal == str(slower) == "slower by 9.88 µs of 66.50 µs (95 %: 4.10 to 11.77)"
    noise = Saving(-0.00988, -0.01177, 0.0041, 0.0665, 0.07638)
    assert noise.refusal == "no time saved beyond noise: -9.88 µs of 66.50 (95 %: -11.77 to +4.10)"
    assert not slower.real
    assert not noise.slower
    assert str(Saving(-2.5, -3, -2, 10, 12.5)) == "slower by 2.500 ms of 10.000 ms (95 %: 2.000 to 3.000)"


def test_equal_networks_on_a_busy_machine_are_no_saving():
    wrong = 0
    for seed in range(400):
        runs, clock = busy((3.0, 3.0), (0.4, 0.4), seed)
        wrong += saving(*interleave(runs, rounds=15, clock=clock)).real
    assert wrong / 400 < 0.025 + 0.02


def test_a_saving_reads_in_the_unit_that_fits():
    assert str(saving([0.0083] * 9, [0.0081] * 9)) == "+0.20 µs of 8.30 (95 %: +0.20 to +0.20)"
    assert str(saving([12.5], [12.0])) == "+0.500 ms of 12.500 (95 %: +0.500 to +0.500)"
