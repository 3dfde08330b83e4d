"""Durability: what is promised for the commit interval holds while somebody else has the commits."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.unit.test_catalog import open_store, save
from vfs.service.durability import Durability


def test_what_was_closed_is_synced_while_a_collection_holds_the_commits(tmp_path: Path) -> None:
    path = tmp_path / "store"
    open_store(path).close()
    (path / "config.toml").write_text("commit_interval = 0.01\n")
    store = open_store(path)
    bucket = store.create_bucket(b"bucket", uid=0, gid=0)
    durability = Durability(store)

    async def changed() -> None:
        save(store, bucket, b"name", b"content")
        number = store.core.journal.end.number
        durability.changed()
        with trio.fail_after(10):
            while store.core.journal.durable < number:  # noqa: ASYNC110 (nobody tells)
                await trio.sleep(0.01)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(durability.run)
            await durability.commits.acquire()
            known = store.core.catalog.checkpoint
            await changed()
            await changed()  # also when a commit is waiting already
            assert store.core.catalog.checkpoint == known
            durability.commits.release()
            with trio.fail_after(10):
                while store.core.catalog.checkpoint == known:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    store.close()
