"""Token buckets and bounded dicts of the exchange."""

from __future__ import annotations

from exchange.model.bounded_dict import BoundedDict
from exchange.model.rate_buckets import RateBucket, RateBuckets


def test_the_entry_renewed_least_recently_makes_room() -> None:
    bounded: BoundedDict[str, int] = BoundedDict(2)
    bounded["a"], bounded["b"] = 1, 2
    assert bounded.renew("a") == 1
    bounded["c"] = 3
    assert list(bounded.items()) == [("a", 1), ("c", 3)]
    bounded["a"] = 4  # an assignment renews too
    assert list(bounded) == ["c", "a"]
    assert bounded.renew("b") is None
    assert list(bounded) == ["c", "a"]


def test_a_wait_of_exactly_one_interval_is_enough() -> None:
    bucket = RateBucket(0.0, 0.1)
    assert not bucket.take(0.2, 3.0, 1.0)
    assert bucket.take(0.1 + 1 / 3, 3.0, 1.0)
    assert not bucket.take(0.0, 3.0, 1.0)  # a clock that steps back gives nothing


def test_a_bucket_can_be_overdrawn_and_fills_at_its_rate() -> None:
    buckets = RateBuckets(rate=2.0, burst=4.0, most=2)
    buckets.overdraw(0.0, "a", 10.0)
    assert buckets.tokens(0.0, "a") == -6.0
    assert not buckets.take(3.0, "a")
    assert buckets.take(3.5, "a")
    assert buckets.tokens(100.0, "a") == 4.0
    for name in "bcd":
        buckets.take(100.0, name)
    assert buckets.tokens(100.0, "b") == 4.0  # forgotten: two are remembered
    assert buckets.tokens(100.0, "c") == 3.0
