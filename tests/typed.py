"""What a document tells people to type, typed as it stands into the bash of an ordinary user, on a terminal.

In a block of code marked ``console``, commands stand behind ``$``, and what they answer below. Version ids, times and
access keys differ each time: those in the document stand for the real ones, also in the commands that repeat them.
"""

from __future__ import annotations

import os
import pty
import pwd
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mounted import REPO

USER, UID = "ada", 12345  # whose terminal it is in the documents
ANSWER_S_MAX = 60
NEXT_SECOND_S = 1.0
_DONE = re.compile(rb"\x01(\d+)\x01\r\n\Z")
_ME = USER if os.geteuid() == 0 else re.escape(pwd.getpwuid(os.geteuid()).pw_name)
_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_ID = r"\d{8}T\d{6}\.\d{6}Z"
_KEY = r"\bVFS[A-Z0-9]{17}\b|(?<=secret )\S+"
_VOLATILE = re.compile(rf"{_ID}|{_TIME}(?:\.\d{{6}}[+-]\d\d:\d\d)?|{_KEY}|\b(?:{USER}|{_ME})\b")
_NEEDS_A_SECOND = re.compile(r"rm |.*\$\(date")  # since the last command: people take one anyway
_SECONDS = len("2026-11-27 16:41:07")

# A place of its own for root's tests: a tmpfs at $1 (the file systems of a test machine may allow no devices), a
# /dev/fuse for everybody, as udev makes it, and the user. Everything goes with the last process.
_ALONE = f"""
umask 022
mount -t tmpfs -o mode=755 none "$1"
mknod -m 666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
sed '1i {USER}:x:{UID}:{UID}::'"$1/home:/bin/bash" /etc/passwd >"$1/passwd"
mount --bind "$1/passwd" /etc/passwd
mkdir "$1/home"
{{before}}
chown -R {UID}:{UID} "$1/home"
cd "$1/home"
exec setpriv --reuid={UID} --regid={UID} --clear-groups bash
"""


def section(path: Path, title: str) -> str:
    """The text under a heading of a document, up to the next of the same depth."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{path.name} has no section {title!r}"
    return found[1]


class Step(NamedTuple):
    """A command, and what the document says that it answers."""

    command: str
    answer: str


def steps(text: str) -> Iterator[Step]:
    """All commands of a text, in their order."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for command, answer in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            yield Step(command, answer)


class Terminal:
    """The bash of an ordinary user in a time zone. Home is *folder*/home, and ~/vfs there is a clone that is set up.

    before: what root does first, if root runs the tests. known: words of the document, and what they stand for.
    """

    def __init__(self, folder: Path, zone: str, *, before: str = "") -> None:
        self.known: dict[str, str] = {}
        self.home = home = folder / "home"
        words = ["bash"]
        if os.geteuid() == 0:
            alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec"]
            words = [*alone, _ALONE.format(before=before), "sh", str(folder)]
        else:
            home.mkdir()
        self._output, theirs = pty.openpty()
        self._bash = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
            cwd=folder if os.geteuid() == 0 else home,
            env={
                "HOME": str(home),
                "PATH": f"{home}/.local/bin:{home}/programs:/usr/local/bin:/usr/bin:/bin",
                "PYTHONPATH": str(REPO),
                "PYTHONDONTWRITEBYTECODE": "1",
                "LC_ALL": "C.UTF-8",
                "NO_COLOR": "1",
                "TZ": zone,
            },
        )
        os.close(theirs)
        programs = Path(sys.executable).parent
        self.type("mkdir -p ~/vfs/scripts ~/programs")
        self.type(f"cp {REPO}/scripts/mount ~/vfs/scripts; ln -s {programs.parent} ~/vfs/.venv")
        self.type(f"ln -s {programs}/aws ~/programs")
        self.type("printf '#!/bin/sh\\n' >~/vfs/scripts/setup; chmod +x ~/vfs/scripts/setup")  # it is set up

    def type(self, command: str, *, code: int = 0) -> str:
        """What a command answers. It must end with *code*, and in time."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{command}\nprintf '\\001%s\\001\\n' $?\n".encode())
        self._bash.stdin.flush()
        answer = b""
        deadline = time.monotonic() + ANSWER_S_MAX
        while not (done := _DONE.search(answer)):
            ready, _, _ = select.select([self._output], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{command}: no end after {ANSWER_S_MAX} s: {answer.decode()}"
            answer += os.read(self._output, 1 << 16)
        text = answer[: done.start()].decode().replace("\r\n", "\n")
        assert int(done[1]) == code, f"{command}: exit code {int(done[1])}: {text}"
        return text

    def follow(self, text: str) -> None:
        """Type all commands of a text. Each must succeed, and answer what the text says, if it says anything."""
        for command, answer in steps(text):
            if _NEEDS_A_SECOND.match(command):
                time.sleep(NEXT_SECOND_S)
            shown = self.type(self.translated(command))
            if answer:
                self._compare(answer, shown)

    def translated(self, text: str) -> str:
        """A text of the document with what its words stand for."""
        for word in sorted(self.known, key=len, reverse=True):
            text = text.replace(word, self.known[word])
        return text

    def _compare(self, told: str, shown: str) -> None:
        told, shown = (" ".join(text.split()) for text in (told, shown))
        assert _VOLATILE.sub("…", told) == _VOLATILE.sub("…", shown)
        for word, found in zip(_VOLATILE.findall(told), _VOLATILE.findall(shown), strict=True):
            assert self.known.setdefault(word, found) == found
            if re.match(_TIME, word):
                self.known.setdefault(word[:_SECONDS], found[:_SECONDS])

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        assert self._bash.stdin is not None
        if os.geteuid() != 0:
            subprocess.run(["fusermount3", "-uqz", f"{self.home}/vault"], check=False, timeout=ANSWER_S_MAX)
        self._bash.stdin.close()
        try:
            self._bash.wait(5)
        except subprocess.TimeoutExpired:
            self._bash.kill()
            self._bash.wait(ANSWER_S_MAX)
        os.close(self._output)
