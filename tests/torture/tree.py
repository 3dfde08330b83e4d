"""Load on a bucket of its own: everything that a file system does, step by step, beside the reference model.

Each step that was acknowledged is done in the model too. When the daemon dies, the one step in flight may have been
done or not, or in part where it is more than one atomic change: each state that could be is compared with the mount.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import pickle
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.model.reference import Directory, Draft, File, Handle, Reference, Version
from tests.mounted import purge
from tests.torture.steps import DEAD, Died, Log, Lost, digest
from tests.torture.view import (
    DELETED,
    Known,
    View,
    differences,
    expect,
    history_path,
    is_directory,
    observe,
    places_of,
    shown_data,
)
from vfs.errors import VfsError
from vfs.model import Kind, State, Writer

Apply = Callable[..., Any]  # (model, what the call returned, arguments from the model)

ROOT = Writer(0, 0, "torture")
FILES = [f"f{number}" for number in range(10)]
LINKS = ["l0", "l1"]
DIRECTORIES = [f"d{number}" for number in range(4)]
DEPTH_MAX = 3
HANDLES_MAX = 4
DIFFERENCES_SHOWN_MAX = 8
SIZES = (0, 1, 10, 100, 100, 100, 4096, 5000, 5000, 20_000, 20_000, 300_000)
READ_AGAIN = 0.05  # the share of old versions whose content is read after each kill
PUBLISHED_MAX = HANDLES_MAX + 1  # versions of a key that one recovery can make
AMBIGUOUS_S = (45, 90)  # ages at which the model cannot be sure whether a renamed file counts as young (60 s)


class Tree:
    """Invariant: between two steps, `reference` is what the mount was told, and `handles` are what is open."""

    def __init__(self, root: str, log: Log, seed: str) -> None:
        self.root = root
        self.log = log
        self.figures = {"closes": 0, "versions": 0, "in flight, done": 0, "in flight, not done": 0}
        self.chance = random.Random(seed)
        self.reference = Reference()
        self.reference.now = time.time_ns()
        self.bucket = os.path.basename(root).encode()
        self.reference.create_bucket(self.bucket, State.ENABLED, 0, 0, os.lstat(root).st_ino)
        self.reference.buckets[self.bucket].root.mode = os.lstat(root).st_mode
        self.handles: list[tuple[int, Handle]] = []
        self.known: Known = {}
        self.ids: dict[int, str] = {}  # of each version that was seen, by serial
        self.in_flight: tuple[Apply, tuple[Any, ...], Callable[[], Any] | None] | None = None
        self.operations: list[Callable[[], None]] = [
            *[self._save] * 6,
            *[self._append] * 3,
            *[self._overwrite] * 3,
            *[self._atomic_save] * 3,
            *[self._truncate_path] * 2,
            *[self._rename] * 3,
            *[self._link] * 2,
            self._symlink,
            *[self._unlink] * 3,
            *[self._mkdir] * 2,
            self._rmdir,
            *[self._rename_directory] * 2,
            self._remove_all,
            self._chmod,
            *[self._attribute] * 2,
            *[self._open] * 2,
            *[self._use_handle] * 8,
            self._fsync_directory,
            *[self._read] * 3,
            *[self._map] * 2,
            *[self._purge] * 2,
            *[self._copy_back] * 2,
            *[self._restore] * 2,
        ]

    # -- steps ------------------------------------------------------------------------------------------------

    def _step(
        self,
        what: str,
        call: Callable[[], Any],
        apply: Apply | None = None,
        *args: Any,
        find: Callable[[], Any] | None = None,
    ) -> Any:
        """A call into the mount, then the same in the model. Returns what the model returned.

        find: what the call would have returned if it was done, asked of the next daemon.
        """
        if apply is not None and apply is not same:
            self.in_flight = apply, args, find
        result = self.log.step(what, call)
        self.in_flight = None
        self.reference.now = time.time_ns()
        return None if apply is None else apply(self.reference, result, *args)

    def work(self) -> None:
        self.chance.choice(self.operations)()

    def rest(self) -> None:
        while self.handles:
            self._close(self.handles[-1])

    # -- choosing ---------------------------------------------------------------------------------------------

    def _directories(self) -> list[Directory]:
        return [directory for directory in self.reference.directories() if directory.live]

    def _directory(self) -> Directory:
        return self.chance.choice(self._directories())

    def _files(self, *, closed: bool = False) -> list[tuple[Directory, str, File]]:
        """Regular files with one of their names."""
        return [
            (directory, name.decode(), entry)
            for directory in self._directories()
            for name, entry in directory.entries.items()
            if isinstance(entry, File) and stat.S_ISREG(entry.mode) and not (closed and entry.open is not None)
        ]

    def _file(self, *, closed: bool = False) -> tuple[Directory, str, File] | None:
        found = self._files(closed=closed)
        return self.chance.choice(found) if found else None

    def _path(self, directory: Directory, name: str = "") -> str:
        return os.path.join(self.root, places_of(directory), name)

    def _data(self) -> bytes:
        size = self.chance.choice(SIZES)
        data = self.chance.randbytes(size)
        return bytes(size) if self.chance.random() < 0.05 else data

    def _version(self, *, kinds: tuple[Kind, ...]) -> tuple[Directory, bytes, Version] | None:
        """A version that has been seen, so that its id is known."""
        found = [
            (directory, name, version)
            for directory in self.reference.directories()
            for name, chain in directory.chains.items()
            for version in chain
            if version.kind in kinds and version.serial in self.ids and not name.endswith(b"/")
        ]
        return self.chance.choice(found) if found else None

    # -- files ------------------------------------------------------------------------------------------------

    def _open_step(self, directory: Directory, name: str, *, flags: int = os.O_RDWR) -> tuple[int, Handle]:
        """Open a file, or make it if it is not there. The descriptor, and the model's handle."""
        path = self._path(directory, name)
        entry = directory.entries.get(name.encode())
        descriptor = -1

        def call() -> None:
            nonlocal descriptor
            descriptor = os.open(path, flags | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if entry is None else 0), 0o644)

        if entry is None:
            handle = self._step(f"create {path}", call, create, directory, name)
        else:
            truncate = bool(flags & os.O_TRUNC)
            handle = self._step(f"open {path} {flags:#o}", call, opened, entry, truncate)
        self.handles.append((descriptor, handle))
        return descriptor, handle

    def _write(self, opened: tuple[int, Handle], offset: int, data: bytes, *, append: bool = False) -> None:
        descriptor, handle = opened
        if not data:
            return  # the kernel does not pass it on, and it is no change

        def call() -> None:
            done = os.write(descriptor, data) if append else os.pwrite(descriptor, data, offset)
            if done != len(data):
                raise Died(f"a write of {len(data)} bytes wrote {done}")

        self._step(
            f"write {descriptor} at {offset}: {len(data)} bytes {digest(data)}", call, wrote, handle, offset, data
        )

    def _fsync(self, opened: tuple[int, Handle]) -> None:
        self._step(f"fsync {opened[0]}", lambda: os.fsync(opened[0]), flushed, opened[1])

    def _close(self, opened: tuple[int, Handle]) -> None:
        self.handles.remove(opened)
        self._step(f"close {opened[0]}", lambda: os.close(opened[0]), closed, opened[1])
        self.figures["closes"] += 1

    def _write_all(self, opened: tuple[int, Handle], data: bytes) -> None:
        """In one write or in several, perhaps with an fsync."""
        pieces = self.chance.choice((1, 1, 2, 3))
        size = len(data) // pieces + 1
        for offset in range(0, len(data), size):
            self._write(opened, offset, data[offset : offset + size])
        if self.chance.random() < 0.15:
            self._fsync(opened)

    def _save(self) -> None:
        """echo … > f"""
        directory, name = self._directory(), self.chance.choice(FILES)
        opened = self._open_step(directory, name, flags=os.O_WRONLY | os.O_TRUNC)
        self._write_all(opened, self._data())
        self._close(opened)

    def _append(self) -> None:
        found = self._file()
        if found is not None:
            opened = self._open_step(found[0], found[1], flags=os.O_WRONLY | os.O_APPEND)
            for _ in range(self.chance.choice((1, 1, 2))):
                self._write(opened, len(opened[1].shared.data), self._data()[:6000], append=True)
            self._close(opened)

    def _overwrite(self) -> None:
        """A few bytes somewhere, perhaps behind the end."""
        found = self._file()
        if found is not None:
            opened = self._open_step(found[0], found[1])
            self._write(opened, self.chance.randrange(len(opened[1].shared.data) + 200), self._data()[:6000])
            self._close(opened)

    def _atomic_save(self) -> None:
        """A temporary file renamed over another, as editors do."""
        found = self._file()
        if found is None or b"ftmp" in found[0].entries:
            return
        opened = self._open_step(found[0], "ftmp", flags=os.O_WRONLY)
        self._write_all(opened, self._data())
        self._close(opened)
        self._rename_step(found[0], "ftmp", found[0], found[1])

    def _truncate_path(self) -> None:
        found = self._file()
        if found is not None:
            path, size = self._path(found[0], found[1]), self.chance.choice((0, 10, 5000, 150_000))
            self._step(f"truncate {path} to {size}", lambda: os.truncate(path, size), truncated_path, found[2], size)

    def _open(self) -> None:
        """A descriptor that stays open over other operations."""
        if len(self.handles) < HANDLES_MAX:
            self._open_step(self._directory(), self.chance.choice(FILES))

    def _use_handle(self) -> None:
        if not self.handles:
            return
        opened = self.chance.choice(self.handles)
        descriptor, handle = opened
        match self.chance.choice(("write", "write", "truncate", "fsync", "read", "close")):
            case "write":
                self._write(opened, self.chance.randrange(len(handle.shared.data) + 200), self._data()[:10_000])
            case "truncate":
                size = self.chance.randrange(len(handle.shared.data) + 200)
                self._step(
                    f"ftruncate {descriptor} to {size}", lambda: os.ftruncate(descriptor, size), cut, handle, size
                )
            case "fsync":
                self._fsync(opened)
            case "read":
                expected = bytes(handle.shared.data)
                found = self._step(f"read {descriptor}", lambda: _read_descriptor(descriptor), same)
                _check_bytes(f"descriptor {descriptor}", found, expected)
            case _:
                self._close(opened)

    def _read(self) -> None:
        """What is read is what was written."""
        found = self._file(closed=True)
        if found is not None:
            path = self._path(found[0], found[1])
            _check_bytes(path, self._step(f"read {path}", lambda: _read_path(path), same), shown_data(found[2]))

    def _map(self) -> None:
        """Change bytes through memory. In a child, because who touches a page of a dead mount is killed (SIGBUS); not
        while anything is open, because the child's end would flush it.
        """
        found = self._file(closed=True)
        if found is None or self.handles or not shown_data(found[2]):
            return
        path = self._path(found[0], found[1])
        offset = self.chance.randrange(len(shown_data(found[2])))
        data = self.chance.randbytes(min(3000, len(shown_data(found[2])) - offset))
        what = f"mmap {path} at {offset}: {len(data)} bytes {digest(data)}"
        self._step(what, lambda: _in_child(lambda: _write_mapped(path, offset, data)), mapped, found[2], offset, data)
        self.figures["closes"] += 1

    # -- names ------------------------------------------------------------------------------------------------

    def _rename(self) -> None:
        found = self._file()
        if found is not None:
            self._rename_step(found[0], found[1], self._directory(), self.chance.choice(FILES))

    def _rename_step(self, directory: Directory, name: str, to: Directory, new_name: str) -> None:
        chain = directory.chains.get(name.encode(), [])
        if new_name.encode() in to.entries and len(chain) == 1:
            age = time.time() - chain[0].at / 1e6
            if AMBIGUOUS_S[0] < age < AMBIGUOUS_S[1]:
                return
        path, target = self._path(directory, name), self._path(to, new_name)
        self._step(
            f"rename {path} to {target}", lambda: os.rename(path, target), renamed, directory, name, to, new_name
        )

    def _link(self) -> None:
        found = self._file()
        directory, name = self._directory(), self.chance.choice(FILES)
        if found is not None and name.encode() not in directory.entries:
            path, target = self._path(found[0], found[1]), self._path(directory, name)
            self._step(f"link {path} to {target}", lambda: os.link(path, target), linked, found[2], directory, name)

    def _symlink(self) -> None:
        directory, name = self._directory(), self.chance.choice(LINKS)
        if name.encode() not in directory.entries:
            path, target = self._path(directory, name), f"to/{self.chance.randrange(1000)}"
            self._step(
                f"symlink {path} to {target}", lambda: os.symlink(target, path), symlinked, directory, name, target
            )

    def _unlink(self) -> None:
        found = [(directory, name.decode()) for directory in self._directories() for name in directory.entries]
        found = [(directory, name) for directory, name in found if not is_directory(name)]
        if found:
            self._unlink_step(*self.chance.choice(found))

    def _unlink_step(self, directory: Directory, name: str) -> None:
        path = self._path(directory, name)
        self._step(f"unlink {path}", lambda: os.unlink(path), unlinked, directory, name)

    def _mkdir(self) -> None:
        directory, name = self._directory(), self.chance.choice(DIRECTORIES)
        if name.encode() + b"/" in directory.entries or places_of(directory).count("/") >= DEPTH_MAX - 1:
            return
        path = self._path(directory, name)

        def call() -> int:
            os.mkdir(path, 0o755)
            return os.lstat(path).st_ino

        def find() -> int:
            return os.lstat(path).st_ino if os.path.lexists(path) else 0

        self._step(f"mkdir {path}", call, made_directory, directory, name, find=find)

    def _rmdir(self) -> None:
        found = [one for one in self._directories() if one.parent is not None and not one.entries]
        if found:
            self._rmdir_step(self.chance.choice(found))

    def _rmdir_step(self, directory: Directory) -> None:
        path = self._path(directory)
        self._step(f"rmdir {path}", lambda: os.rmdir(path), removed_directory, directory)

    def _remove_all(self) -> None:
        """rm -r of a directory."""
        found = [one for one in self._directories() if one.parent is not None and len(one.entries) < 6]
        if found and self.chance.random() < 0.5:
            self._remove_below(self.chance.choice(found))

    def _remove_below(self, directory: Directory) -> None:
        for sort_name, entry in sorted(directory.entries.items()):
            if isinstance(entry, Directory):
                self._remove_below(entry)
            else:
                self._unlink_step(directory, sort_name.decode())
        self._rmdir_step(directory)

    def _rename_directory(self) -> None:
        found = [one for one in self._directories() if one.parent is not None]
        if not found:
            return
        moved, to, name = self.chance.choice(found), self._directory(), self.chance.choice(DIRECTORIES)
        above: Directory | None = to
        while above is not None and above is not moved:
            above = above.parent
        old = to.entries.get(name.encode() + b"/")
        if above is moved or old is moved or (isinstance(old, Directory) and old.entries):
            return
        path, target = self._path(moved), self._path(to, name)
        assert moved.parent is not None
        arguments = moved.parent, moved.name.decode(), to, name
        self._step(f"rename {path} to {target}", lambda: os.rename(path, target), renamed, *arguments)

    def _fsync_directory(self) -> None:
        path = self._path(self._directory())

        def call() -> None:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        self._step(f"fsync {path}", call)

    # -- attributes -------------------------------------------------------------------------------------------

    def _chmod(self) -> None:
        found = self._file()
        if found is not None:
            path, mode = self._path(found[0], found[1]), self.chance.choice((0o644, 0o600, 0o755, 0o400))
            self._step(f"chmod {path} to {mode:o}", lambda: os.chmod(path, mode), changed_mode, found[2], mode)

    def _attribute(self) -> None:
        found = self._file()
        node, path = (found[2], self._path(found[0], found[1])) if found is not None else (None, "")
        if self.chance.random() < 0.3:
            node = self._directory()
            path = self._path(node)
        if node is None:
            return
        name, value = self.chance.choice((b"user.a", b"user.b")), self.chance.randbytes(self.chance.randrange(30))
        if name in node.attributes and self.chance.random() < 0.5:
            self._step(f"removexattr {path}", lambda: os.removexattr(path, name), removed_attribute, node, name)
        else:
            call = lambda: os.setxattr(path, name, value)  # noqa: E731
            self._step(f"setxattr {path} {value.hex()}", call, set_attribute, node, name, value)

    # -- history ----------------------------------------------------------------------------------------------

    def _version_path(self, directory: Directory, name: bytes, version: Version) -> str:
        return os.path.join(self.root, history_path(directory), name.decode(), self.ids[version.serial])

    def _purge(self) -> None:
        found = self._version(kinds=(Kind.CONTENT, Kind.MARKER))
        if found is None:
            return
        directory, name, version = found
        try:
            self.reference._check_revivable(directory)
        except VfsError:
            return  # another directory stands where the one of a file that is undeleted would come back
        path = self._version_path(*found)
        self._step(f"purge {path}", lambda: purge(Path(path)), purged, directory, name, version)

    def _copy_back(self) -> None:
        """cp .versions/f/ID f"""
        found = self._version(kinds=(Kind.CONTENT,))
        if found is None or not stat.S_ISREG(found[2].mode):
            return
        path = self._version_path(*found)
        data = self._step(f"read {path}", lambda: _read_path(path), same)
        _check_bytes(path, data, found[2].data)
        name = found[1].decode()
        opened = self._open_step(self._directory(), name, flags=os.O_WRONLY | os.O_TRUNC)
        self._write_all(opened, data)
        self._close(opened)

    def _restore(self) -> None:
        """What `vfs restore` does."""
        found = self._version(kinds=(Kind.CONTENT,))
        if found is None or not stat.S_ISREG(found[2].mode):
            return
        source, name, version = found
        directory = source if source.live and self.chance.random() < 0.7 else self._directory()
        path, version_path = self._path(directory), self._version_path(*found)
        number = self._step(f"stat {version_path}", lambda: os.lstat(version_path).st_ino, same) & ((1 << 60) - 1)
        what = f"restore {version_path} to {path}"
        value = b"%d\0%s" % (number, name)
        arguments = source, name, version, directory
        self._step(what, lambda: os.setxattr(path, "user.vfs.restore", value), restored, *arguments)
        self._step("settled", lambda: os.getxattr(path, "user.vfs.settled"))

    # -- after a death ----------------------------------------------------------------------------------------

    def verify(self, *, everything: bool) -> None:
        for descriptor, _ in self.handles:
            with contextlib.suppress(OSError):
                os.close(descriptor)  # of the dead mount
        read_again = self.chance.random if not everything else float
        view = observe(self.root, self.known, lambda _: read_again() < READ_AGAIN)
        problems: list[str] = []
        for number, reference in self._recoveries(view):
            reference.now = time.time_ns()
            reference.recover()
            expected = expect(reference)
            found = differences(view, expected)
            if not found:
                self._accept(reference, view, expected)
                self.figures["in flight, done" if number else "in flight, not done"] += self.in_flight is not None
                self.in_flight = None
                return
            problems = found if not problems or len(found) < len(problems) else problems
        shown = problems[:DIFFERENCES_SHOWN_MAX]
        more = [f"and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        raise Lost("\n".join([f"{self.root} is not what was acknowledged:", *shown, *more]))

    def _recoveries(self, view: View) -> Iterator[tuple[int, Reference]]:
        """Each of `_states` by its number, and what it is with interim drafts: whatever was open may have one."""
        for number, state in enumerate(self._states()):
            reference: Reference = pickle.loads(state)
            drafts = [(None, *_made_safe(file, view)) for file in _dirty(reference)]
            for chosen in itertools.product(*drafts):
                reference = pickle.loads(state)
                for file, draft in zip(_dirty(reference), chosen, strict=True):
                    file.interim = draft or file.interim
                yield number, reference

    def _states(self) -> list[bytes]:
        """What may be there: the model without the step in flight, and after each atomic change of it."""
        if self.in_flight is None:
            return [pickle.dumps(self.reference)]
        apply, arguments, find = self.in_flight
        result = None if find is None else find()
        reference, arguments = pickle.loads(pickle.dumps((self.reference, arguments)))
        states = [pickle.dumps(reference)]
        reference.after_event = lambda: states.append(pickle.dumps(reference))
        reference.now = time.time_ns()
        apply(reference, result, *arguments)
        return [*states, pickle.dumps(reference)]

    def _accept(self, reference: Reference, view: View, expected: View) -> None:
        self.reference = reference
        self.handles.clear()
        ids: dict[int, str] = {}
        for path, versions in expected.versions.items():
            if path in expected.merged:  # only those that were known before
                ids |= {version.serial: self.ids[version.serial] for version in versions if version.serial in self.ids}
                continue
            for version, version_id in zip(versions, view.ids[path], strict=True):
                if self.ids.get(version.serial, version_id) != version_id:
                    raise Lost(f"{path}/{self.ids[version.serial]} became {version_id}")
                ids[version.serial] = version_id
        self.ids = ids
        self.figures["versions"] = len(ids)


# -- what a step does in the model: functions that can be pickled with their arguments' copies ------------------------


def create(reference: Reference, _: None, directory: Directory, name: str) -> Handle:
    return reference.open(reference.create(directory, name.encode(), 0o644, 0, ROOT), ROOT, created=True)


def opened(reference: Reference, _: None, file: File, truncate: bool) -> Handle:
    handle = reference.open(file, ROOT, truncate=truncate)
    if truncate:
        handle.shared.note(b"", 0, b"")
    return handle


def wrote(reference: Reference, _: None, handle: Handle, offset: int, data: bytes) -> None:
    before = bytes(handle.shared.data)
    reference.write(handle, offset, data)
    handle.shared.note(before, offset, data)


def cut(reference: Reference, _: None, handle: Handle, size: int) -> None:
    reference.truncate(handle, size)
    handle.shared.note(b"", 0, bytes(handle.shared.data))


def flushed(reference: Reference, _: None, handle: Handle) -> None:
    reference.flush(handle)


def closed(reference: Reference, _: None, handle: Handle) -> None:
    if handle.changed:
        reference.flush(handle)
    reference.release(handle)


def mapped(reference: Reference, _: None, file: File, offset: int, data: bytes) -> None:
    handle = reference.open(file, ROOT)
    reference.write(handle, offset, data)
    closed(reference, None, handle)


def truncated_path(reference: Reference, _: None, file: File, size: int) -> None:
    reference.truncate_path(file, size, ROOT)


def renamed(reference: Reference, _: None, directory: Directory, name: str, to: Directory, new_name: str) -> None:
    reference.rename(directory, name.encode(), to, new_name.encode(), ROOT)


def linked(reference: Reference, _: None, file: File, directory: Directory, name: str) -> None:
    reference.link(file, directory, name.encode(), ROOT)


def symlinked(reference: Reference, _: None, directory: Directory, name: str, target: str) -> None:
    reference.make(directory, name.encode(), stat.S_IFLNK | 0o777, 0, ROOT, target=target.encode())


def unlinked(reference: Reference, _: None, directory: Directory, name: str) -> None:
    reference.unlink(directory, name.encode(), ROOT)


def made_directory(reference: Reference, ino: int, directory: Directory, name: str) -> None:
    if ino:
        reference.mkdir(directory, name.encode(), 0o755, 0, ROOT, ino)


def removed_directory(reference: Reference, _: None, directory: Directory) -> None:
    assert directory.parent is not None
    reference.rmdir(directory.parent, directory.name, ROOT)


def changed_mode(reference: Reference, _: None, file: File, mode: int) -> None:
    reference.set_attributes(file, mode=mode)


def set_attribute(reference: Reference, _: None, node: File | Directory, name: bytes, value: bytes) -> None:
    reference.set_attribute(node, name, value)


def removed_attribute(reference: Reference, _: None, node: File | Directory, name: bytes) -> None:
    reference.remove_attribute(node, name)


def purged(reference: Reference, _: None, directory: Directory, name: bytes, version: Version) -> None:
    reference.purge(directory, name, version, ROOT)


def restored(
    reference: Reference, _: None, source: Directory, name: bytes, version: Version, directory: Directory
) -> None:
    reference.restore(source, name, version, directory, name, ROOT)


def same(_: Reference, result: Any) -> Any:
    """A step that changes nothing."""
    return result


# -- what the clock made safe ------------------------------------------------------------------------------------------


def _dirty(reference: Reference) -> list[File]:
    """The open files with changes that no draft has."""
    files = [*reference.files(), *reference.displaced]
    return [file for file in files if file.open is not None and file.open.dirty and not file.open.unlinked]


def _made_safe(file: File, view: View) -> list[Draft]:
    """The interim draft that a file had if the view shows one, as of whatever moment since its last draft."""
    assert file.open is not None
    directory, name = file.displaced or file.names[0]
    versions = view.past.get(os.path.join(history_path(directory), name.decode()), [])
    found = {version[1:] for version in versions[-PUBLISHED_MAX:] if version != DELETED}
    moments = [moment for moment in file.open.moments if moment.changes > file.open.safe]
    drafts = (draft for moment in reversed(moments) for draft in moment.drafts())
    return list(itertools.islice((one for one in drafts if (len(one.data), digest(one.data)) in found), 1))


# -- reading and mapping ----------------------------------------------------------------------------------------------


def _read_path(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _read_descriptor(descriptor: int) -> bytes:
    parts = []
    offset = 0
    while part := os.pread(descriptor, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _check_bytes(what: str, found: bytes, expected: bytes) -> None:
    if found != expected:
        at = next((at for at, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(expected))
        raise Lost(f"{what} reads as {len(found)} bytes, expected {len(expected)}; they differ from byte {at} on")


def _write_mapped(path: str, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR)
    with mmap.mmap(descriptor, 0) as memory:
        memory[offset : offset + len(data)] = data
        memory.flush()
    os.close(descriptor)


def _in_child(call: Callable[[], None]) -> None:
    """Run a call in a child. Raises Died if the child was killed by the dead mount, or OSError."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            call()
            code = 0
        except OSError as error:
            code = min(error.errno or 255, 254)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        raise Died(f"a child was killed by signal {-code}")
    if code:
        raise OSError(code, os.strerror(code) if code in DEAD else f"a child failed ({code})")
