"""The polling seam, on pipes instead of FUSE and with a clock that moves only when it is looked at."""

import os
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise

import pyfuse3
import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from vfs.fuse import polling

POLL_US = 30
TICK_NS = 1_000


class Clock:
    """Each look moves it on by `TICK_NS`; `at` runs something when it gets to a time."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._due_ns = 0
        self._action: Callable[[], object] | None = None

    def __call__(self) -> int:
        self.now_ns += TICK_NS
        if self._action is not None and self.now_ns >= self._due_ns:
            action, self._action = self._action, None
            action()
        return self.now_ns

    def at(self, due_ns: int, action: Callable[[], object]) -> None:
        self._due_ns, self._action = due_ns, action


class Pipe:
    """Stands for the FUSE descriptor: a byte is a request."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self.fd, False)  # so that a receive without a request fails instead of hanging

    def send(self, requests: bytes = b".") -> None:
        os.write(self._writer, requests)

    def receive(self) -> bytes:
        return os.read(self.fd, 1)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._writer)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(polling, "_now_ns", clock)
    return clock


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def lowlevel(clock: Clock) -> polling.PollingLowlevel:
    return polling.PollingLowlevel(POLL_US)


async def begin_burst(lowlevel: polling.PollingLowlevel, pipe: Pipe) -> None:
    """One request through epoll; what comes after it is polled for."""
    pipe.send()
    with assert_checkpoints():
        await lowlevel.wait_readable(pipe.fd)
    pipe.receive()


# --- the lock


async def test_taking_a_free_lock_does_not_yield() -> None:
    lock = polling.PollingLock()
    with assert_no_checkpoints():
        for _ in range(3):
            async with lock:
                pass


async def test_the_releasing_task_takes_the_lock_again_past_a_parked_one(nursery: trio.Nursery) -> None:
    lock = polling.PollingLock()
    order: list[str] = []

    async def parked() -> None:
        async with lock:
            order.append("parked")

    async with lock:
        nursery.start_soon(parked)
        await wait_all_tasks_blocked()
    with assert_no_checkpoints():
        for _ in range(3):
            async with lock:
                order.append("holder")
    await wait_all_tasks_blocked()
    assert order == ["holder"] * 3 + ["parked"]


async def test_a_woken_task_that_comes_too_late_is_woken_again(nursery: trio.Nursery) -> None:
    lock = polling.PollingLock()
    order: list[str] = []

    async def parked(name: str) -> None:
        async with lock:
            order.append(name)

    async with lock:
        nursery.start_soon(parked, "first")
        await wait_all_tasks_blocked()
        nursery.start_soon(parked, "second")
        await wait_all_tasks_blocked()
    for _ in range(3):
        async with lock:
            await wait_all_tasks_blocked()  # the woken one runs, finds the lock held and parks in front
            assert order == []
    await wait_all_tasks_blocked()
    assert order == ["first", "second"]


async def test_one_task_is_woken_however_often_the_lock_is_released(nursery: trio.Nursery) -> None:
    lock = polling.PollingLock()

    async def parked() -> None:
        async with lock:
            pass

    async with lock:
        for _ in range(3):
            nursery.start_soon(parked)
        await wait_all_tasks_blocked()
    for _ in range(3):
        async with lock:
            pass
    assert trio.lowlevel.current_statistics().tasks_runnable == 1


async def test_a_parked_task_runs_when_the_last_holder_awaits_something(nursery: trio.Nursery) -> None:
    lock = polling.PollingLock()
    served = trio.Event()

    async def parked() -> None:
        async with lock:
            served.set()

    async with lock:
        nursery.start_soon(parked)
        await wait_all_tasks_blocked()
    await served.wait()  # a handler that awaits


async def test_one_holder_at_a_time() -> None:
    lock = polling.PollingLock()
    inside = entries = 0

    async def enter_often() -> None:
        nonlocal inside, entries
        for turn in range(50):
            async with lock:
                inside += 1
                entries += 1
                assert inside == 1
                if turn % 3:
                    await trio.lowlevel.checkpoint()
                inside -= 1
            if turn % 2:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(enter_often)
    assert entries == 250


async def test_a_cancelled_task_leaves_the_queue(nursery: trio.Nursery) -> None:
    lock = polling.PollingLock()
    scope = trio.CancelScope()
    served = trio.Event()

    async def cancelled() -> None:
        with scope:
            async with lock:
                pytest.fail("got the lock after its cancellation")

    async def parked() -> None:
        async with lock:
            served.set()

    async with lock:
        nursery.start_soon(cancelled)
        await wait_all_tasks_blocked()
        nursery.start_soon(parked)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
    await served.wait()


@pytest.mark.parametrize("taken_again", [False, True])
async def test_a_task_cancelled_on_its_way_loses_no_wake_up(nursery: trio.Nursery, taken_again: bool) -> None:
    lock = polling.PollingLock()
    scope = trio.CancelScope()
    served = trio.Event()

    async def cancelled() -> None:
        with scope:
            async with lock:
                await trio.sleep_forever()

    async def parked() -> None:
        async with lock:
            served.set()

    async with lock:
        nursery.start_soon(cancelled)
        await wait_all_tasks_blocked()
        nursery.start_soon(parked)
        await wait_all_tasks_blocked()
    scope.cancel()  # it is runnable, but has not run
    if taken_again:
        async with lock:
            await wait_all_tasks_blocked()
    await served.wait()
    assert scope.cancelled_caught


async def test_an_error_inside_releases_the_lock() -> None:
    lock = polling.PollingLock()
    with pytest.raises(trio.ClosedResourceError):
        async with lock:
            raise trio.ClosedResourceError
    with assert_no_checkpoints():
        async with lock:
            pass


# --- waiting for the descriptor


async def test_a_request_that_comes_while_polling_costs_no_switch(
    clock: Clock, lowlevel: polling.PollingLowlevel, pipe: Pipe
) -> None:
    await begin_burst(lowlevel, pipe)
    clock.at(clock.now_ns + POLL_US * 1000 // 2, pipe.send)
    with assert_no_checkpoints():
        await lowlevel.wait_readable(pipe.fd)
    assert pipe.receive()


async def test_polling_ends_after_its_time(
    clock: Clock, lowlevel: polling.PollingLowlevel, pipe: Pipe, nursery: trio.Nursery
) -> None:
    await begin_burst(lowlevel, pipe)
    start_ns = clock.now_ns
    nursery.start_soon(lowlevel.wait_readable, pipe.fd)
    await wait_all_tasks_blocked()
    assert POLL_US * 1000 <= clock.now_ns - start_ns <= POLL_US * 1000 + 3 * TICK_NS
    pipe.send()


async def test_a_late_request_is_not_followed_by_polling(
    clock: Clock, lowlevel: polling.PollingLowlevel, pipe: Pipe, nursery: trio.Nursery
) -> None:
    await begin_burst(lowlevel, pipe)
    async with trio.open_nursery() as waiting:
        waiting.start_soon(lowlevel.wait_readable, pipe.fd)
        await wait_all_tasks_blocked()
        clock.now_ns += POLL_US * 1000 + polling.WAKE_UP_NS
        pipe.send()
    pipe.receive()
    start_ns = clock.now_ns
    nursery.start_soon(lowlevel.wait_readable, pipe.fd)
    await wait_all_tasks_blocked()
    assert clock.now_ns - start_ns == TICK_NS  # it looked at the clock once and went to sleep
    pipe.send()


@pytest.mark.parametrize("always_readable", [True, False])
async def test_other_tasks_run_under_sustained_load(
    clock: Clock, lowlevel: polling.PollingLowlevel, pipe: Pipe, nursery: trio.Nursery, always_readable: bool
) -> None:
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(clock.now_ns)
            await trio.lowlevel.checkpoint()

    await begin_burst(lowlevel, pipe)
    nursery.start_soon(other)
    longest_ns = polling.YIELD_DUE_NS if always_readable else polling.YIELD_IDLE_NS
    end_ns = clock.now_ns + 10 * longest_ns
    while clock.now_ns < end_ns:
        if always_readable:
            pipe.send()
        else:
            clock.at(clock.now_ns + 5 * TICK_NS, pipe.send)
        await lowlevel.wait_readable(pipe.fd)
        pipe.receive()
    nursery.cancel_scope.cancel()
    assert len(turns) >= 5
    gaps_ns = [later - earlier for earlier, later in pairwise(turns)]
    assert max(gaps_ns) <= 2 * longest_ns + 10 * TICK_NS  # trio may run the two in either order
    assert len(turns) <= 15  # and it costs a pass through the scheduler only now and then


async def test_the_descriptor_may_change(lowlevel: polling.PollingLowlevel, pipe: Pipe) -> None:
    await begin_burst(lowlevel, pipe)
    other = Pipe()
    for one in (other, pipe):
        one.send()
        with assert_no_checkpoints():
            await lowlevel.wait_readable(one.fd)
        assert one.receive()
    other.close()


# --- closing


async def wait_again_and_again(lowlevel: polling.PollingLowlevel, fd: int) -> None:
    while True:
        await lowlevel.wait_readable(fd)


async def wait_until_closed(lowlevel: polling.PollingLowlevel, fd: int, *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    with pytest.raises(trio.ClosedResourceError):
        await wait_again_and_again(lowlevel, fd)


async def test_closing_ends_a_wait_in_epoll(lowlevel: polling.PollingLowlevel, pipe: Pipe) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(wait_until_closed, lowlevel, pipe.fd)
        await wait_all_tasks_blocked()
        lowlevel.notify_closing(pipe.fd)


@pytest.mark.parametrize("always_readable", [True, False])
async def test_closing_ends_a_wait_that_polls(clock: Clock, pipe: Pipe, always_readable: bool) -> None:
    lowlevel = polling.PollingLowlevel(poll_us=1_000_000_000)  # for ever: it never gets as far as epoll
    await begin_burst(lowlevel, pipe)
    if always_readable:
        pipe.send()
    async with trio.open_nursery() as nursery:
        await nursery.start(wait_until_closed, lowlevel, pipe.fd)  # we run when it lets us, while it polls
        lowlevel.notify_closing(pipe.fd)


async def test_a_wait_after_closing_is_an_ordinary_one(lowlevel: polling.PollingLowlevel, pipe: Pipe) -> None:
    lowlevel.notify_closing(pipe.fd)
    pipe.send()
    await lowlevel.wait_readable(pipe.fd)


# --- all of it together, as pyfuse3 uses it


async def test_tasks_serve_all_requests_and_never_receive_without_one(clock: Clock, pipe: Pipe) -> None:
    seam = polling.PollingTrio(POLL_US)
    lock = seam.Lock()
    waiting = 0
    served: list[bytes] = []
    requests = b"nnwnwwnnnwnwwwwnnw" * 20

    async def serve(handle: Callable[[bytes], Awaitable[None]]) -> None:
        nonlocal waiting
        try:
            while True:
                async with lock:
                    assert waiting == 0
                    waiting += 1
                    try:
                        await seam.lowlevel.wait_readable(pipe.fd)
                    finally:
                        waiting -= 1
                request = pipe.receive()  # raises BlockingIOError if another took the request
                await handle(request)
                served.append(request)
                if len(served) == len(requests):
                    seam.lowlevel.notify_closing(pipe.fd)
                    nursery.cancel_scope.cancel()
        except trio.ClosedResourceError:
            pass

    async def handle(request: bytes) -> None:
        if request == b"w":
            await trio.to_thread.run_sync(int)

    pipe.send(requests)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(serve, handle)
    assert sorted(served) == sorted(bytes([request]) for request in requests)


# --- the seam itself


def test_install_replaces_only_what_it_must() -> None:
    names: dict[str, object] = vars(pyfuse3)
    assert names["trio"] is trio
    polling.install(POLL_US)
    try:
        seam = names["trio"]
        assert isinstance(seam, polling.PollingTrio)
        assert seam.Lock is polling.PollingLock
        assert seam.open_nursery is trio.open_nursery
        assert seam.ClosedResourceError is trio.ClosedResourceError
        assert seam.lowlevel.current_task is trio.lowlevel.current_task
        assert seam.lowlevel.current_trio_token is trio.lowlevel.current_trio_token
    finally:
        polling.uninstall()
    assert names["trio"] is trio
