"""The task that tells `vfs status` how a daemon without a mount is (vfs.daemons)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import trio

from vfs import daemons
from vfs.store import Store

log = logging.getLogger("vfs.daemon")

SEND_S_MAX = 5.0


async def tell_of(store: Store, answer: Callable[[], bytes]) -> None:
    """Give whoever connects an answer, for ever. A fault of that ends the connection: the daemon is worth more."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(SEND_S_MAX):
                await stream.send_all(answer())
        except trio.BrokenResourceError:
            pass  # who asked has gone
        except Exception:
            log.exception("`vfs status` cannot be answered")

    bound = daemons.listen(store.path)
    if bound is None:
        bound = daemons.listen_in(store.path)
        log.info("`vfs status` does not list this daemon; `vfs status %s` shows it", store.path)
    if bound is None:
        await trio.sleep(math.inf)
        return
    try:
        await trio.serve_listeners(serve, [trio.SocketListener(trio.socket.from_stdlib_socket(bound))])
    finally:
        daemons.forget(store.path)
