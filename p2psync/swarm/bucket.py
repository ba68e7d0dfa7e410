"""A token bucket: how long to wait before bytes may go, so that a rate holds on average.

The caller passes the time, so the same calls give the same answers.
"""

from __future__ import annotations


class TokenBucket:
    """Bytes may go at ``rate_bytes_per_s``, with bursts of at most ``burst_bytes``.

    Debt is allowed: a request larger than the burst waits longer instead of never being served.
    """

    def __init__(self, rate_bytes_per_s: float, burst_bytes: int, now_s: float) -> None:
        if rate_bytes_per_s <= 0 or burst_bytes <= 0:
            raise ValueError("a token bucket needs a positive rate and burst")
        self.rate_bytes_per_s = rate_bytes_per_s
        self.burst_bytes = burst_bytes
        self._tokens = float(burst_bytes)
        self._at_s = now_s

    def take(self, count: int, now_s: float) -> float:
        """Account for ``count`` bytes and return the seconds to wait before sending them."""
        self._tokens = min(self.burst_bytes, self._tokens + (now_s - self._at_s) * self.rate_bytes_per_s)
        self._at_s = now_s
        self._tokens -= count
        return max(0.0, -self._tokens / self.rate_bytes_per_s)
