"""More connections than there is room for: real sockets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from vfs.s3 import server
from vfs.s3.response import Response

MOST = 4
REQUEST = b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n"
CLOSED = b""

Connect = Callable[..., Awaitable[trio.SocketStream]]


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    """A server with room for MOST, for which requests of `/signed` are signed. What connects to it."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", MOST)

    async def answer(incoming: server.Incoming) -> Response:
        if incoming.target == b"/signed":
            incoming.verified()
        return Response(200)

    sockets = server.listen("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]

    async def connect(sent: bytes = b"") -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        clients.push_async_callback(stream.aclose)
        if sent:
            await stream.send_all(sent)
        return stream

    async with AsyncExitStack() as clients, trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.serve, sockets, answer, None))
        yield connect
        nursery.cancel_scope.cancel()
    for one in sockets:
        one.close()


async def asked(stream: trio.SocketStream, path: bytes) -> bytes:
    """The answer; nothing if there is none in time, or the connection is closed."""
    with trio.move_on_after(2):
        try:
            await stream.send_all(REQUEST % path)
            return bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            return CLOSED
    return CLOSED


async def is_closed(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(0.2):
        try:
            return await stream.receive_some() == CLOSED
        except trio.BrokenResourceError:
            return True
    return False


@pytest.mark.parametrize("sent", [b"", b"GET /", REQUEST % b"unsigned"], ids=["silent", "half a line", "unsigned"])
async def test_whoever_has_no_key_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    """The oldest make room, whatever they send; one line tells of it."""
    async with serving(monkeypatch) as connect:
        idle = [await connect(sent) for _ in range(MOST)]
        await trio.testing.wait_all_tasks_blocked(0.1)
        with caplog.at_level(logging.WARNING):
            for _ in range(2 * MOST):
                client = await connect()
                assert (await asked(client, b"signed")).startswith(b"HTTP/1.1 200")
                await client.aclose()
                await connect(sent)
        if sent != REQUEST % b"unsigned":
            assert await is_closed(idle[0])
    assert [record.getMessage() for record in caplog.records] == [
        f"there are {MOST} connections: the oldest of those without a signed request are closed for new ones"
    ]


async def test_whoever_has_a_key_makes_room_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that have carried a signed request stay, and others wait until one of them ends."""
    async with serving(monkeypatch) as connect:
        known = [await connect() for _ in range(MOST)]
        for client in known:
            assert (await asked(client, b"signed")).startswith(b"HTTP/1.1 200")
        late = await connect()
        assert await asked(late, b"signed") == CLOSED
        for client in known[1:]:
            assert (await asked(client, b"signed")).startswith(b"HTTP/1.1 200")
        await known[0].aclose()
        with trio.fail_after(2):
            assert (await late.receive_some()).startswith(b"HTTP/1.1 200")
