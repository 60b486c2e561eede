"""Token buckets: what may come at once, what comes back in a time, and that few are remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.limits import FULL, Buckets, Rate

NOON = 43_200.0


def taken(rate: Rate, full: float, now: float) -> tuple[int, float]:
    """How many can be, and the bucket without them."""
    count = 0
    while (after := rate.take(full, now)) is not None:
        count, full = count + 1, after
    return count, full


@pytest.mark.parametrize(("rate", "burst"), [(Rate(50), 200), (Rate(20), 80), (Rate(1), 4), (Rate(3, 7), 7)])
def test_a_bucket_holds_four_seconds_worth_unless_told(rate: Rate, burst: int) -> None:
    assert taken(rate, FULL, NOON)[0] == burst


def test_as_many_come_back_as_the_rate_says() -> None:
    rate = Rate(50)
    _, full = taken(rate, FULL, NOON)
    assert rate.take(full, NOON + 0.019) is None
    assert taken(rate, full, NOON + 1)[0] == 50
    assert taken(rate, full, NOON + 3600)[0] == 200


def test_how_long_to_wait() -> None:
    rate = Rate(20)
    assert rate.wait(FULL, NOON) == 0
    _, full = taken(rate, FULL, NOON)
    wait = rate.wait(full, NOON)
    assert wait == pytest.approx(1 / 20)
    assert rate.take(full, NOON + wait - 0.001) is None
    assert rate.take(full, NOON + wait) is not None


@given(st.lists(st.floats(0, 10), max_size=300), st.floats(1, 100))
def test_never_more_than_the_burst_and_the_rate(pauses: list[float], a_second: float) -> None:
    rate, full, now, count = Rate(a_second, 5), FULL, NOON, 0
    for pause in pauses:
        now += pause
        if (after := rate.take(full, now)) is not None:
            full, count = after, count + 1
    assert count <= 5 + (now - NOON) * a_second + 1e-3


def test_each_name_has_its_own() -> None:
    buckets = Buckets(Rate(1))
    assert [buckets.take("ann", NOON) for _ in range(5)] == [True] * 4 + [False]
    assert buckets.take("bob", NOON)
    assert buckets.wait("ann", NOON) == pytest.approx(1)
    assert buckets.wait("eve", NOON) == 0
    assert buckets.take("ann", NOON + 1)


def test_those_that_are_full_again_are_forgotten() -> None:
    buckets = Buckets(Rate(1), most=100)
    for number in range(1000):
        buckets.take(number, NOON + number)
    assert len(buckets) <= 100


def test_those_that_are_not_are_remembered() -> None:
    buckets = Buckets(Rate(1), most=100)
    assert [buckets.take("ann", NOON) for _ in range(5)] == [True] * 4 + [False]
    for number in range(99):
        buckets.take(number, NOON)
    buckets.take("new", NOON + 1.5)
    assert len(buckets) == 2
    assert [buckets.take("ann", NOON + 1.5) for _ in range(2)] == [True, False]


def test_beyond_the_bound_the_oldest_half_is_forgotten() -> None:
    buckets = Buckets(Rate(1), most=100)
    for number in range(101):
        for _ in range(4):
            assert buckets.take(number, NOON)
    assert len(buckets) == 51
    assert not buckets.take(100, NOON)
    assert not buckets.take(60, NOON)
    assert buckets.take(0, NOON)
