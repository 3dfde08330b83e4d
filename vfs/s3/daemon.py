"""The endpoint as a door of a daemon: its address and TLS; and the daemon that has no other door (`vfs serve`)."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from vfs.core import Changed
from vfs.errors import VfsError
from vfs.s3 import server
from vfs.s3.door import Door
from vfs.service.collecting import Collecting
from vfs.service.durability import Durability
from vfs.service.health import Health
from vfs.service.lifecycles import Lifecycles
from vfs.service.process import MoreDoor, Settle, Task, facts_of, notify, want_open_files
from vfs.service.scrubbing import Scrubbing
from vfs.service.telling import tell_of
from vfs.settings import Settings
from vfs.store import Store

log = logging.getLogger("vfs.s3")

PEM_BYTES_MAX = 1 << 20


class ListenFailed(VfsError):
    """The address cannot be listened on, or the certificate not be used."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def bind(address: Address) -> list[socket.socket]:
    """Listen: before a store is made for it, which would be left behind. Raises ListenFailed."""
    try:
        return server.listen(address.host, address.port)
    except (OSError, UnicodeError) as error:  # of a host's name that DNS cannot say
        reason = getattr(error, "strerror", None) or error
        raise ListenFailed(f"cannot listen on {address.host}:{address.port}: {reason}") from error


def warning_of(address: Address, *, over_tls: bool) -> str:
    """What is dangerous about an address; empty if nothing is."""
    if over_tls or address.is_loopback:
        return ""
    return f"S3 without TLS on {address.host}: what is sent there can be read on its way"


def door_on(sockets: Sequence[socket.socket], address: Address) -> MoreDoor:
    """The endpoint, to be opened beside another door. sockets: what `bind` made of the address."""

    def open_door(store: Store, settle: Settle, health: Health, facts: dict[str, object]) -> Task:
        tls = _tls(store.settings)
        if warning := warning_of(address, over_tls=tls is not None):
            log.warning("%s", warning)
        facts["S3"] = urls = _urls(sockets, tls)
        log.info("S3 on %s", " ".join(urls))
        door = Door(store, settle, health)

        async def run() -> None:
            await server.serve(sockets, door.answer, tls)

        return run

    return open_door


def _tls(settings: Settings) -> ssl.SSLContext | None:
    certificate, key = settings.s3_certificate, settings.s3_certificate_key
    if not certificate:
        return None
    _check_pem("certificate", certificate, b"CERTIFICATE")
    _check_pem("key", key, b"PRIVATE KEY")
    try:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key, password="")  # it is never asked for: nobody may be there
    except OSError as error:  # SSLError is one
        raise ListenFailed(f"the certificate {certificate} with the key {key} cannot be used: {error}") from error
    return tls


def _check_pem(what: str, path: str, label: bytes) -> None:
    """See that a file has what it must have: OpenSSL tells neither which file nor what it misses."""
    if not os.path.isfile(path):
        hint = "" if os.path.isabs(path) else f" in {os.getcwd()}; give it an absolute path"
        raise ListenFailed(f"the {what} {path} cannot be used: it is no file{hint}")
    try:
        with open(path, "rb") as file:
            found = file.read(PEM_BYTES_MAX)
    except OSError as error:
        raise ListenFailed(f"the {what} {path} cannot be used: {error.strerror}") from error
    if label + b"-----" not in found:
        raise ListenFailed(f"the {what} {path} cannot be used: there is no {label.decode().lower()} in it (PEM)")
    if b"ENCRYPTED" in found:
        raise ListenFailed(f"the {what} {path} cannot be used: it has a passphrase; take that away (openssl pkey)")


def _urls(sockets: Sequence[socket.socket], tls: ssl.SSLContext | None) -> list[str]:
    scheme = "http" if tls is None else "https"
    addresses = [one.getsockname()[:2] for one in sockets]
    return [f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}" for host, port in addresses]


def serve(store: Path, address: Address, *, foreign: bool = False, on_ready: Callable[[], None]) -> None:
    """Serve a store until SIGTERM or SIGINT comes, without a mount. Raises VfsError if it cannot be opened, or the
    address not be listened on. foreign: see Store.open. The store is closed when this returns.
    """
    want_open_files()
    with contextlib.ExitStack() as bound:
        sockets = bind(address)
        for one in sockets:
            bound.callback(one.close)
        _serve(store, door_on(sockets, address), f"--s3={address.host}:{address.port}", on_ready, foreign=foreign)


def _serve(store: Path, door: MoreDoor, option: str, on_ready: Callable[[], None], *, foreign: bool) -> None:
    opened = Store.open(store, foreign=foreign)
    try:
        opened.tell_use("", [option])
        facts = facts_of(opened)
        health = Health(opened, facts, serving=f"{store} over S3")
        durability = Durability(opened, health)

        async def settle(_: Sequence[Changed]) -> None:
            durability.changed()
            if "close" in (opened.settings.durability, opened.settings.s3_durability):
                await durability.sync()

        tasks: list[Task] = [
            health.run,
            durability.run,
            Scrubbing(opened, facts, health).run,
            Collecting(opened, durability, facts).run,
            partial(Lifecycles(opened).run, settle),
            door(opened, settle, health, facts),
            partial(tell_of, opened, lambda: msgspec.json.encode(facts | opened.figures())),
        ]
        trio.run(_main, tasks, health, on_ready)
    finally:
        opened.close()
        notify("STATUS=")
    log.info("the store is closed")


async def _main(tasks: Sequence[Task], health: Health, on_ready: Callable[[], None]) -> None:
    gc.freeze()  # what is here stays: do not look through it again and again
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
            on_ready()
            notify("READY=1", f"STATUS={health.line}")
            async for number in signals:
                log.info("%s: ending", signal.Signals(number).name)
                notify("STOPPING=1")
                break
            nursery.cancel_scope.cancel()
