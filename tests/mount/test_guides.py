"""README.md and docs/backup.md, typed as they stand: the tour in Shanghai and in New York, and each procedure."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import REPO
from tests.typed import Terminal, section

pytestmark = pytest.mark.fuse

README, BACKUP = REPO / "README.md", REPO / "docs/backup.md"
ZONES = {"Shanghai": "CST-8", "New York": "EST5EDT,M3.2.0,M11.1.0"}  # as POSIX writes them: no files are needed
STORE = "~/.local/share/vfs"


@contextlib.contextmanager
def terminal(zone: str = "UTC0", *, before: str = "") -> Iterator[Terminal]:
    """Somebody who has typed README's first command."""
    first = re.search(r"^    (~/vfs/scripts/mount)\b", README.read_text(), re.MULTILINE)
    assert first, "README says how to begin"
    with tempfile.TemporaryDirectory(prefix="vfs-test-") as folder:
        Path(folder).chmod(0o755)
        with contextlib.closing(Terminal(Path(folder), zone, before=before)) as opened:
            opened.type(first[1])
            yield opened
            opened.type("cd; if findmnt ~/vault; then vfs umount ~/vault; fi")
            opened.type("ls -d ~/.local/share/vfs ~/vfs-store 2>/dev/null | xargs -rn 1 vfs check")


@pytest.mark.parametrize("city", ZONES)
def test_readme(city: str) -> None:
    with terminal(ZONES[city]) as mine:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        mine.follow(README.read_text().replace("9000", port))
        offset = mine.type("date +%:z").strip()
        assert offset != "+00:00"
        assert offset in mine.type("vfs log ~/vault/docs/letter.txt | cat")
        # What came back is as it was, to be worked in.
        mine.type("cd ~/vault/docs; touch trip/new; echo Day 2 >>trip/plan.txt; rm -r trip")


@pytest.fixture
def mine() -> Iterator[Terminal]:
    """With two files, one of them in two versions."""
    with terminal() as opened:
        opened.type("mkdir ~/vault/docs/trip; echo one >~/vault/docs/note; echo two >~/vault/docs/note")
        opened.type("head -c 1M /dev/urandom >~/vault/docs/trip/photo")
        yield opened


def follow(mine: Terminal, title: str) -> None:
    mine.follow(section(BACKUP, title))


def test_back_up(mine: Terminal) -> None:
    follow(mine, "Back up")
    mine.type("diff -r ~/vault/docs ~/backup/files")
    mine.type("echo three >~/vault/docs/note")
    follow(mine, "Back up")
    mine.type("vfs check ~/backup/store; vfs umount ~/vault; vfs mount ~/backup/store ~/vault")
    assert mine.type("cat ~/vault/docs/.versions/note/*").split() == ["one", "two", "three"]
    mine.type("cmp ~/vault/docs/trip/photo ~/backup/files/trip/photo")


def test_move(mine: Terminal) -> None:
    follow(mine, "Move or copy")
    assert mine.type("cat ~/vault/docs/.versions/note/*").split() == ["one", "two"]
    mine.type("vfs umount ~/vault; ~/vfs/scripts/mount ~/vfs-store; cat ~/vault/docs/note")


def test_uninstall(mine: Terminal) -> None:
    follow(mine, "Uninstall")
    last = re.search(r"^    (rm .*)", section(BACKUP, "Uninstall"), re.MULTILINE)
    assert last
    mine.type(last[1])
    assert mine.type("cat ~/docs/note") == "two\n"
    mine.type("[ ! -e ~/.local/share/vfs ] && [ ! -e ~/.local/bin/vfs ] && [ ! -e ~/vfs ]")


def test_get_something_back(mine: Terminal) -> None:
    copy, count = re.findall(r"^    (.*)", section(BACKUP, "Get something back"), re.MULTILINE)
    assert "10 minutes ago" in copy
    mine.type("sleep 1.1; rm -rf ~/vault/docs/trip")
    mine.type(copy.replace("10 minutes", "0 seconds"))
    assert mine.type(count) == "2\n"
    assert "cp -a " in mine.type("rm -rf ~/vault/docs/trip; vfs log ~/vault/docs/trip", code=2)
    mine.type("echo secret >~/vault/docs/s; chmod 0 ~/vault/docs/s; rm -f ~/vault/docs/s; cd ~/vault/docs; touch s")
    mine.type("vfs restore s $(vfs log s | tail -n 1 | cut -f1)")
    assert mine.type("cat s") == "secret\n"


def test_delete_something_for_good(mine: Terminal) -> None:
    mine.type("mkdir ~/vault/docs/trip/a; echo one >~/vault/docs/trip/a/'x y'; rm ~/vault/docs/trip/a/*")
    follow(mine, "Delete something for good")
    assert mine.type("ls; find .versions ! -type d") == ""
    assert "has no history" in mine.type("vfs log note", code=1)


def test_a_dead_mount(mine: Terminal) -> None:
    mine.type(r"""kill -9 $(vfs status --json ~/vault | grep -oP '"Pid": \K\d+'); sleep 1""")
    assert "Transport endpoint is not connected" in mine.type("ls ~/vault/docs", code=2)
    follow(mine, "A dead mount")
    assert mine.type("cat ~/vault/docs/note") == "two\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_a_full_disk() -> None:
    small = 'mkdir -p "$1/home/.local/share/vfs"; mount -t tmpfs -o size=64m,mode=700 none "$1/home/.local/share/vfs"'
    with terminal(before=small) as mine:
        mine.type("head -c 20M /dev/urandom >~/vault/docs/big.iso")
        assert "No space left on device" in mine.type("head -c 60M /dev/urandom >~/vault/docs/more", code=1)
        follow(mine, "A full disk")
        mine.type("head -c 15M /dev/urandom >~/vault/docs/more")


def test_damage(mine: Terminal) -> None:
    follow(mine, "Back up")
    mine.type("head -c 1M /dev/urandom >~/vault/docs/trip/later; echo three >~/vault/docs/note; vfs umount ~/vault")
    mine.type(f"printf x | dd of={STORE}/blocks/00000001 bs=1 seek=700000 conv=notrunc status=none")
    said = mine.type(f"vfs check {STORE}", code=1)
    assert "blocks/00000001" in said
    assert "docs/trip/photo" in said
    mine.type(f"vfs mount {STORE} ~/vault")
    assert "Input/output error" in mine.type("cat ~/vault/docs/trip/photo >/dev/null", code=1)
    mine.type("cat ~/vault/docs/trip/later ~/vault/docs/note >/dev/null")
    finds, mends = section(BACKUP, "Damage").split("| damaged |")
    mine.follow(finds.replace("$ vfs check", "$ ! vfs check"))
    mine.follow(mends)
    mine.type(f"cd; vfs mount {STORE} ~/vault; cmp ~/vault/docs/trip/photo ~/backup/files/trip/photo")
    assert mine.type("cat ~/vault/docs/note") == "three\n"
