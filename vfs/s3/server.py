"""HTTP/1.1 over TCP: connections and their limits. The only user of h11; knows nothing of buckets.

A connection is one task. A request whose body was not read to its end ends the connection, unless little is left.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

import h11
import trio

from vfs.s3.errors import S3Error
from vfs.s3.response import Response, Stream, failed

log = logging.getLogger("vfs.s3")

CONNECTIONS_MAX = 512
HEAD_BYTES_MAX = 32 << 10  # the first line and the headers of a request
HEAD_S_MAX = 20.0  # that they may take, and a handshake of TLS
IDLE_S_MAX = 75.0  # that a connection may wait for its next request
RECEIVE_BYTES_MAX = 256 << 10  # taken from a socket in one go
RECEIVE_S_MAX = 30.0  # that the next bytes of a body may take
SEND_S_MAX = 60.0  # that a client may take for one piece of an answer
RATE_BYTES_MIN = 1 << 10  # that a body must come with per second, after the first RATE_S
RATE_S = 60.0
DRAIN_BYTES_MAX = 256 << 10  # of a body that nobody wants, for the sake of the connection
PIECES_PER_TURN = 64  # of a body, before others get their turn
BACKLOG = 256
TELL_S = 60.0  # between two words about connections that are closed for others


class TooSlow(Exception):
    """A client that keeps this waiting."""


class Disconnected(Exception):
    """The client is gone, or does not speak HTTP."""


class Incoming(NamedTuple):
    """A request as it was read. receive: the next piece of its body, empty at its end. verified: to be called when
    its signature has been found right.
    """

    method: str
    target: bytes
    headers: list[tuple[str, str]]
    receive: Callable[[], Awaitable[bytes]]
    verified: Callable[[], None]


Answer = Callable[[Incoming], Awaitable[Response]]


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets at an address. Raises OSError."""
    found = []
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        one = socket.socket(family, kind, protocol)
        found.append(one)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(BACKLOG)
        except OSError:
            for each in found:
                each.close()
            raise
    return found


class Room:
    """Who is connected. Invariant: at most CONNECTIONS_MAX at once, and nobody without a key keeps others out.

    A stranger is a connection that has not carried a verified request. Nothing else makes it less of one, so whoever
    sends a byte now and then, or requests that are refused, stays no longer.
    """

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(CONNECTIONS_MAX)
        self._strangers: dict[trio.CancelScope, None] = {}  # in the order in which they came
        self._told_at = -math.inf

    async def enter(self) -> trio.CancelScope:
        """Wait until there is room for one more: a stranger has to make it. Returns the scope to run it in."""
        scope = trio.CancelScope()
        if not self._limiter.available_tokens and self._strangers:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel()
            self._tell()
        await self._limiter.acquire_on_behalf_of(scope)
        self._strangers[scope] = None
        return scope

    def know(self, scope: trio.CancelScope) -> None:
        """A connection has carried a verified request."""
        self._strangers.pop(scope, None)

    def leave(self, scope: trio.CancelScope) -> None:
        """A connection has ended."""
        self._strangers.pop(scope, None)
        self._limiter.release_on_behalf_of(scope)

    def _tell(self) -> None:
        now = trio.current_time()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            log.warning(
                "there are %d connections: the oldest of those without a signed request are closed for new ones",
                CONNECTIONS_MAX,
            )


async def serve(sockets: Sequence[socket.socket], answer: Answer, tls: ssl.SSLContext | None) -> None:
    """Answer whoever comes, until cancelled."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in sockets]
    room = Room()
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept, listener, answer, tls, room, nursery)


async def _accept(
    listener: trio.SocketListener,
    answer: Answer,
    tls: ssl.SSLContext | None,
    room: Room,
    nursery: trio.Nursery,
) -> None:
    while True:
        try:
            stream = await listener.accept()
        except OSError as error:  # no descriptors: those that are open will end
            log.warning("a connection could not be taken: %s", error)
            await trio.sleep(1)
            continue
        scope = await room.enter()  # while nobody can make room, the next ones wait in the backlog of the socket

        async def run(stream: trio.SocketStream = stream, scope: trio.CancelScope = scope) -> None:
            try:
                with scope:
                    await _run(stream, answer, tls, partial(room.know, scope))
            finally:
                room.leave(scope)

        nursery.start_soon(run)


async def _run(
    raw: trio.SocketStream, answer: Answer, tls: ssl.SSLContext | None, verified: Callable[[], None]
) -> None:
    stream: trio.abc.Stream = raw
    try:
        if tls is not None:
            stream = over_tls = trio.SSLStream(raw, tls, server_side=True, https_compatible=True)
            with trio.move_on_after(HEAD_S_MAX) as scope:
                await over_tls.do_handshake()
            if scope.cancelled_caught:
                raise TooSlow
        connection = Connection(stream, verified)
        while await connection.serve_one(answer):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError, Disconnected, TooSlow) as error:
        log.debug("a connection ends: %r", error)
    except Exception:
        log.exception("a connection ends; this is a bug in vfs")
    finally:
        with trio.move_on_after(1, shield=True), contextlib.suppress(trio.BrokenResourceError):
            await stream.aclose()  # with a word that it ends, where that is TLS's


class Connection:
    """One connection. Invariant: one request at a time. verified: see Incoming."""

    def __init__(self, stream: trio.abc.Stream, verified: Callable[[], None]) -> None:
        self._stream = stream
        self._verified = verified
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._method = b""
        self._received = 0
        self._pieces = 0
        self._since = 0.0

    async def serve_one(self, answer: Answer) -> bool:
        """Answer the next request. Returns whether there may be another. Raises Disconnected, TooSlow."""
        try:
            request = await self._head()
        except h11.RemoteProtocolError as error:
            await self._refuse(error)
            return False
        if request is None:
            return False
        headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers]
        self._method, self._received, self._since = request.method, 0, trio.current_time()
        try:
            method = request.method.decode("ascii")
            response = await answer(Incoming(method, request.target, headers, self._receive, self._verified))
        except h11.RemoteProtocolError as error:
            await self._refuse(error)
            return False
        keep = await self._send(response) and await self._drain()
        if not keep or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _head(self) -> h11.Request | None:
        deadline = trio.current_time() + IDLE_S_MAX
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                if len(event.target) + sum(len(name) + len(value) for name, value in event.headers) > HEAD_BYTES_MAX:
                    raise h11.RemoteProtocolError("the headers are too large", error_status_hint=431)
                return event
            if event is not h11.NEED_DATA:
                return None
            with trio.move_on_at(deadline):
                data = await self._stream.receive_some(RECEIVE_BYTES_MAX)
                if not self._http.trailing_data[0]:
                    deadline = trio.current_time() + HEAD_S_MAX
                self._http.receive_data(bytes(data))
                continue
            return None

    async def _receive(self) -> bytes:
        """The next piece of the body; empty at its end."""
        if self._http.they_are_waiting_for_100_continue:
            # Also for an empty body: botocore takes the next answer of a connection for the one that came without it.
            await self._send_all(
                self._http.send(h11.InformationalResponse(status_code=100, headers=[], reason=_reason(100)))
            )
        while True:
            if self._http.their_state is not h11.SEND_BODY:
                return b""
            event = self._http.next_event()
            if isinstance(event, h11.Data):
                self._received += len(event.data)
                self._pieces += 1
                if self._pieces % PIECES_PER_TURN == 0:  # a body in tiny chunks comes without waiting for the network
                    await trio.lowlevel.checkpoint()
                return bytes(event.data)
            if event is h11.NEED_DATA:
                await self._receive_some()
            elif not isinstance(event, h11.EndOfMessage):
                raise Disconnected

    async def _receive_some(self) -> None:
        taken = trio.current_time() - self._since
        if taken > RATE_S and self._received < (taken - RATE_S) * RATE_BYTES_MIN:
            raise TooSlow
        with trio.move_on_after(RECEIVE_S_MAX) as scope:
            data = await self._stream.receive_some(RECEIVE_BYTES_MAX)
        if scope.cancelled_caught:
            raise TooSlow
        self._http.receive_data(bytes(data))

    async def _send(self, response: Response) -> bool:
        """Send an answer. Returns whether the connection is still good for another."""
        unread = self._http.their_state is h11.SEND_BODY
        waits = self._http.they_are_waiting_for_100_continue
        length = response.body.length if isinstance(response.body, Stream) else len(response.body)
        headers = list(response.headers.items())
        if response.status not in (204, 304) and "Content-Length" not in response.headers:
            headers.append(("Content-Length", str(length)))
        if unread and waits:
            headers.append(("Connection", "close"))
        encoded = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers]
        head = self._http.send(
            h11.Response(status_code=response.status, headers=encoded, reason=_reason(response.status))
        )
        bodiless = response.status in (204, 304) or self._method == b"HEAD"
        if bodiless or isinstance(response.body, Stream):
            await self._send_all(head)
        if not bodiless and isinstance(response.body, Stream):
            async for piece in response.body.open():
                await self._send_all(self._http.send(h11.Data(data=piece)))
        elif not bodiless:
            assert isinstance(response.body, bytes)
            await self._send_all((head or b"") + (self._http.send(h11.Data(data=response.body)) or b""))
        await self._send_all(self._http.send(h11.EndOfMessage()))
        return True

    async def _send_all(self, data: bytes | None) -> None:
        if data:
            with trio.move_on_after(SEND_S_MAX) as scope:
                await self._stream.send_all(data)
            if scope.cancelled_caught:
                raise TooSlow

    async def _drain(self) -> bool:
        """Read what is left of a body that nobody wanted. Returns False if that is too much."""
        start = self._received
        while self._http.their_state is h11.SEND_BODY:
            if self._received - start > DRAIN_BYTES_MAX or self._http.they_are_waiting_for_100_continue:
                return False
            try:
                if not await self._receive():
                    break
            except h11.RemoteProtocolError:
                return False
        return True

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Tell somebody who speaks no HTTP, or too much of it."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        self._method = b""  # not that of the request before
        refusal = failed(S3Error("BadRequest", str(error)), resource="", request_id="", host="")
        await self._send(
            refusal._replace(status=error.error_status_hint, headers={**refusal.headers, "Connection": "close"})
        )


def _reason(status: int) -> bytes:
    """Not optional for botocore: it looks for three words in the first line."""
    return HTTPStatus(status).phrase.encode()
