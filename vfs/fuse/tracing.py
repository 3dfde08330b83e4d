"""Counting and timing the requests of the kernel by kind, for `vfs trace`.

Nothing of this runs otherwise: a trace puts itself in front of the handlers of one `Operations` object, as attributes
of that object, which pyfuse3 finds before those of the class, and takes them away again.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pyfuse3

BUCKETS = 48  # of a histogram: powers of the square root of two, from 1 µs to 12 s

_now_ns = time.perf_counter_ns


class Times:
    """How long one kind of request took in its handler, from the moment that it was read to that of its reply; what
    handlers wait for is in it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self.longest_ns = 0
        self._buckets = [0] * BUCKETS

    def add(self, taken_ns: int) -> None:
        """Count a request."""
        self.count += 1
        self.total_ns += taken_ns
        self.longest_ns = max(self.longest_ns, taken_ns)
        squared = taken_ns * taken_ns // 1_000_000  # in µs²: twice as many buckets as powers of two
        self._buckets[min(squared.bit_length(), BUCKETS - 1)] += 1

    def quantile_us(self, share: float) -> float:
        """What that share of the requests did not exceed, to within a factor of 1.5."""
        left = share * self.count
        for bucket, count in enumerate(self._buckets):
            left -= count
            if left <= 0 and bucket < BUCKETS - 1:
                return round(min(float(2 ** (bucket / 2)), self.longest_ns / 1000), 1)
        return self.longest_ns / 1000

    def figures(self) -> dict[str, object]:
        """For the status, in µs."""
        return {
            "Count": self.count,
            "MeanUs": round(self.total_ns / self.count / 1000, 1),
            "P50Us": self.quantile_us(0.5),
            "P99Us": self.quantile_us(0.99),
            "MaxUs": round(self.longest_ns / 1000, 1),
        }


class Trace:
    """The requests to one `Operations` object while it is followed."""

    def __init__(self, operations: pyfuse3.Operations) -> None:
        self._operations = operations
        self._times: dict[str, Times] = {}
        self._followed: list[str] = []

    def start(self) -> None:
        """Count from nothing."""
        self.stop()
        self._times.clear()
        for name in dir(pyfuse3.Operations):
            handler = getattr(self._operations, name)
            if inspect.iscoroutinefunction(handler):
                setattr(self._operations, name, self._timed(name, handler))
                self._followed.append(name)

    def stop(self) -> None:
        """Count no more; the figures stay."""
        for name in self._followed:
            delattr(self._operations, name)
        self._followed.clear()

    def _timed(self, name: str, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def timed(*arguments: Any) -> Any:
            began_ns = _now_ns()
            try:
                return await handler(*arguments)
            finally:
                times = self._times.get(name)
                if times is None:
                    times = self._times[name] = Times()
                times.add(_now_ns() - began_ns)

        return timed

    def figures(self) -> bytes:
        """As JSON, by kind; those first that took the most time."""
        found = sorted(self._times.items(), key=lambda item: -item[1].total_ns)
        return msgspec.json.encode({name: times.figures() for name, times in found})
