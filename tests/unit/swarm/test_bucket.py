import pytest

from p2psync.swarm import TokenBucket


def test_token_bucket_holds_its_rate():
    """Over a long run the bucket lets exactly its rate through, after the first burst."""
    bucket = TokenBucket(1000, 500, 0.0)
    now_s = 0.0
    for _ in range(100):
        now_s += bucket.take(250, now_s)
    assert now_s == pytest.approx((100 * 250 - 500) / 1000)


@pytest.mark.parametrize(("rate", "burst"), [(0, 10), (-1, 10), (10, 0), (10, -1)])
def test_a_bucket_that_would_never_fill_is_refused(rate, burst):
    """Whoever waited for it would wait for ever."""
    with pytest.raises(ValueError, match="positive rate and burst"):
        TokenBucket(rate, burst, 0.0)
