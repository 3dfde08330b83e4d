"""Makes pyfuse3's main loop poll the FUSE descriptor for a moment before it sleeps.

A client that works through many small operations sends its next request some ten microseconds after
the last reply. Sleeping in epoll in between costs two wake-ups per request (tens of microseconds each on
an idle machine), and pyfuse3's own loop adds three passes through trio's scheduler. Here the task that
served a request looks for the next one itself, for `poll_us`, and only then sleeps.

The seam: pyfuse3 looks up ``trio.Lock`` and ``trio.lowlevel.wait_readable`` at run time in whatever the
attribute ``pyfuse3.trio`` names (``pyfuse3.asyncio.enable()`` replaces that same name). `install` puts a
stand-in there that has its own `Lock`, ``wait_readable`` and ``notify_closing`` and forwards everything
else to trio. This module knows nothing of files, handlers or the engine.

Why it is correct
-----------------
pyfuse3 runs a few equal tasks. Each of them loops over::

    async with lock:                        # one lock per session
        if session_exited: return
        await wait_readable(session_fd)
    receive()                               # a blocking read(2): without a request it stops the daemon
    await handler()

- *At most one task is between ``wait_readable`` and ``receive``.* The lock covers the wait. Neither
  leaving the lock nor ``receive`` awaits anything that yields, so no other task runs between the poll that
  found the request and the read that takes it, and nobody else reads the descriptor.
- *A request served without a real ``await`` costs no task switch.* Releasing does not hand the lock over,
  it marks it free and makes one parked task runnable; the releasing task is still running, takes the
  free lock again and polls on.
- *A handler that does await stops nobody.* Then the task made runnable at the release runs, finds
  the lock free and serves.
- *No wake-up is lost.* A task parks only while the lock is held, so a release follows, and each release
  makes one parked task runnable unless one already is. That one, once it runs, takes the lock or finds it
  held and parks again (in front). "Free, somebody parked, nobody on the way" can therefore not arise. A
  cancelled task takes itself out of the queue; one that was already on its way can no longer be aborted and
  meets its cancellation when it next waits, with the lock held by another (whose release will wake the next)
  or by itself (and leaving the ``async with`` releases it).
- *Nobody starves.* Polling and serving without ``await`` keeps trio from running anything else: timers,
  signals, results of worker threads, network. So ``wait_readable`` passes through trio's scheduler once
  `YIELD_DUE_NS` have gone by since the last time, or `YIELD_IDLE_NS` if no request is waiting.
- *terminate() ends the loop.* pyfuse3 sets the session's exit flag and calls ``notify_closing``. A task in
  epoll gets ``ClosedResourceError`` from trio; one that is passing through the scheduler in the middle of
  its polling sees that the count of closings has moved, and raises the same. Any other task meets
  the flag under the lock, and its release lets the next parked one see it too.
- *Idle costs nothing.* There is one polling time at most per request, and none after a request that polling
  could not have caught (see `WAKE_UP_NS`): polling stops by itself when requests stop or get rare.
"""

import select
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pyfuse3
import trio

POLL_US_DEFAULT = 30
"""How long to look for the next request before sleeping, in microseconds."""

WAKE_UP_NS = 100_000
"""What sleeping may add to a wait. Poll only if the last wait took at most this and the polling time."""

YIELD_IDLE_NS = 200_000
"""With no request waiting, let trio run other tasks when this long has gone by since it last could."""

YIELD_DUE_NS = 1_000_000
"""The same while requests are waiting."""

_now_ns = time.perf_counter_ns


class PollingLock:
    """A lock of trio tasks that its last holder can take again without a task switch.

    Invariant: if the lock is free and tasks are parked, one task that was parked is runnable (`_waking`).
    Not fair, not reentrant, and taking it when it is free is not a checkpoint.
    """

    def __init__(self) -> None:
        self._held = False
        self._parked: deque[trio.lowlevel.Task] = deque()
        self._waking = False

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> None:
        woken = False
        while self._held:
            await self._park(in_front=woken)
            woken = True
        self._held = True

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._held
        self._held = False
        if self._parked and not self._waking:
            self._waking = True
            trio.lowlevel.reschedule(self._parked.popleft())

    @trio.lowlevel.enable_ki_protection
    async def _park(self, *, in_front: bool) -> None:
        """Sleep until a release picks this task; the lock may be held again when it runs."""
        task = trio.lowlevel.current_task()
        if in_front:
            self._parked.appendleft(task)
        else:
            self._parked.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._waking = False  # only after a wake-up: a cancellation leaves through the line above


class PollingLowlevel:
    """Stands for ``trio.lowlevel``: its own ``wait_readable`` and ``notify_closing``, the rest is trio's.

    One descriptor is waited for at a time; the caller sees to that (here `PollingLock`).
    """

    def __init__(self, poll_us: int) -> None:
        self._poll_ns = poll_us * 1000
        self._polled_fd = -1
        self._is_readable: Callable[[int], list[tuple[int, int]]] = select.poll().poll
        self._closings = 0
        self._yielded_ns = _now_ns()
        self._in_burst = False

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        """Return when `fd` can be read, polling first if requests are coming in a burst.

        Unlike trio's it is not always a checkpoint. Raises `trio.ClosedResourceError` if `notify_closing` is
        called meanwhile.
        """
        if fd != self._polled_fd:
            self._poll_from_now_on(fd)
        start_ns = _now_ns()
        if start_ns - self._yielded_ns >= YIELD_DUE_NS:
            await self._yield()
        if self._in_burst and await self._poll(start_ns):
            return
        await trio.lowlevel.wait_readable(fd)
        self._yielded_ns = _now_ns()
        self._in_burst = self._yielded_ns - start_ns <= self._poll_ns + WAKE_UP_NS

    def notify_closing(self, fd: int) -> None:
        """As in trio: a `wait_readable` under way raises, a later one does not know of this."""
        self._closings += 1
        trio.lowlevel.notify_closing(fd)

    async def _poll(self, start_ns: int) -> bool:
        """Poll the descriptor for the polling time; True if it became readable."""
        is_readable = self._is_readable
        while not is_readable(0):
            now_ns = _now_ns()
            if now_ns - start_ns >= self._poll_ns:
                return False
            if now_ns - self._yielded_ns >= YIELD_IDLE_NS:
                await self._yield()
        return True

    async def _yield(self) -> None:
        """Let trio run everything that is due."""
        closings = self._closings
        await trio.lowlevel.checkpoint()
        self._yielded_ns = _now_ns()
        if self._closings != closings:
            raise trio.ClosedResourceError("another task closed this fd")

    def _poll_from_now_on(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._is_readable = poll.poll
        self._polled_fd = fd


class PollingTrio:
    """Stands for the module trio inside pyfuse3."""

    Lock = PollingLock

    def __init__(self, poll_us: int) -> None:
        self.lowlevel = PollingLowlevel(poll_us)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def install(poll_us: int = POLL_US_DEFAULT) -> None:
    """Have pyfuse3 poll for up to `poll_us` microseconds; call it before ``pyfuse3.init``."""
    pyfuse3.trio = PollingTrio(poll_us)  # type: ignore[attr-defined]


def uninstall() -> None:
    """Give pyfuse3 the real trio back; not while its main loop runs."""
    pyfuse3.trio = trio  # type: ignore[attr-defined]
