"""Counting and timing requests: what the figures say, and that nothing is left behind."""

from __future__ import annotations

import json

import pyfuse3
import pytest
import trio

from vfs.fuse.tracing import Times, Trace


@pytest.mark.parametrize("taken_us", [0.1, 0.9, 1, 1.4, 2, 3, 10, 99, 1_000, 12_345, 999_999])
def test_a_quantile_is_right_to_within_a_factor(taken_us: float) -> None:
    times = Times()
    for _ in range(10):
        times.add(int(taken_us * 1000))
    times.add(60_000_000_000)
    found = times.quantile_us(0.5)
    assert max(taken_us, 0.5) <= found * 1.001
    assert found <= max(taken_us * 1.5, 1.0)


def test_the_figures() -> None:
    times = Times()
    for _ in range(99):
        times.add(10_000)
    times.add(5_000_000)
    figures = times.figures()
    assert figures["Count"] == 100
    assert figures["MeanUs"] == pytest.approx(59.9)
    assert figures["MaxUs"] == 5000
    assert figures["P50Us"] == figures["P99Us"] == pytest.approx(11.3)
    assert times.quantile_us(1) == 5000
    times.add(3600 * 10**9)
    assert times.quantile_us(1) == 3600 * 10**6


class Operations(pyfuse3.Operations):  # type: ignore[misc]
    async def getattr(self, ino: int, ctx: object) -> str:
        await trio.sleep(0.002)
        return f"attributes of {ino}"


async def test_a_trace_counts_what_comes_while_it_runs() -> None:
    operations = Operations()
    trace = Trace(operations)
    await operations.getattr(1, None)
    trace.start()
    assert await operations.getattr(1, None) == "attributes of 1"
    with pytest.raises(pyfuse3.FUSEError):
        await operations.lookup(1, b"x", None)
    trace.stop()
    await operations.getattr(1, None)
    found = json.loads(trace.figures())
    assert list(found) == ["getattr", "lookup"]
    assert found["getattr"]["Count"] == 1
    assert found["getattr"]["MeanUs"] > 2000
    assert vars(operations) == {}, "nothing stands in front of the handlers any more"
    trace.start()
    assert json.loads(trace.figures()) == {}
    trace.stop()
