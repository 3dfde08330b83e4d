"""What a Disk promises, asked of the real one and of the simulated one; and what only the simulated one can do."""

import ctypes
import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.simdisk import SimDisk, Stored, fail_at
from tests.unit.test_catalog import files_no_larger_than
from vfs.disk import Disk, RealDisk
from vfs.errors import DiskFailed, LimitReached, NoSpace
from vfs.folder import Folder

Limit = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(params=["real", "simulated"])
def disk_and_limit(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, Limit]:
    if request.param == "simulated":
        simulated = SimDisk()

        @contextmanager
        def room(size: int) -> Iterator[None]:
            simulated.capacity = size
            yield
            simulated.capacity = 1 << 62

        return simulated, room

    return RealDisk(Folder.at(tmp_path)), files_no_larger_than


@pytest.fixture
def disk(disk_and_limit: tuple[Disk, Limit]) -> Disk:
    return disk_and_limit[0]


class TestEveryDisk:
    def test_a_folder_is_made_by_looking(self, disk: Disk) -> None:
        assert disk.list("f") == []
        disk.open("f/b", create=True).close()
        disk.open("f/a", create=True).close()
        assert disk.list("f") == ["a", "b"]
        assert disk.list("g") == []

    def test_append_returns_where_it_begins(self, disk: Disk) -> None:
        disk.list("f")
        file = disk.open("f/a", create=True)
        assert file.size == 0
        assert file.append((b"abc", memoryview(b"de"), bytearray(b"f"))) == 0
        assert file.append((b"", b"ghi")) == 6
        assert file.size == 9
        assert file.read(0, 9) == b"abcdefghi"

    def test_reads_are_short_only_at_the_end(self, disk: Disk) -> None:
        disk.list("f")
        file = disk.open("f/a", create=True)
        file.append((b"abcdef",))
        assert file.read(2, 3) == b"cde"
        assert file.read(4, 100) == b"ef"
        assert file.read(6, 1) == b""
        assert file.read(1000, 1) == b""

    def test_another_handle_sees_what_was_appended(self, disk: Disk) -> None:
        disk.list("f")
        file = disk.open("f/a", create=True)
        early = disk.open("f/a")
        file.append((b"abc",))
        late = disk.open("f/a")
        assert late.size == 3
        assert early.read(0, 3) == late.read(0, 3) == b"abc"

    def test_create_never_takes_an_existing_file(self, disk: Disk) -> None:
        disk.list("f")
        disk.open("f/a", create=True).append((b"abc",))
        with pytest.raises(DiskFailed):
            disk.open("f/a", create=True)
        assert disk.open("f/a").size == 3

    def test_what_is_not_there_cannot_be_opened_or_removed(self, disk: Disk) -> None:
        disk.list("f")
        with pytest.raises(DiskFailed):
            disk.open("f/a")
        with pytest.raises(DiskFailed):
            disk.remove("f/a")
        with pytest.raises(DiskFailed):
            disk.open("no-folder/a", create=True)

    def test_truncate_cuts_and_appending_goes_on_there(self, disk: Disk) -> None:
        disk.list("f")
        file = disk.open("f/a", create=True)
        file.append((b"abcdef",))
        file.truncate(2)
        assert file.size == 2
        assert file.read(0, 10) == b"ab"
        assert file.append((b"XY",)) == 2
        assert file.read(0, 10) == b"abXY"

    def test_remove(self, disk: Disk) -> None:
        disk.list("f")
        disk.open("f/a", create=True).close()
        disk.remove("f/a")
        assert disk.list("f") == []
        disk.open("f/a", create=True).close()

    def test_sync_of_an_open_file_and_close(self, disk: Disk) -> None:
        disk.list("f")
        file = disk.open("f/a", create=True)
        file.append((b"abc",))
        file.sync()
        file.append((b"def",))
        file.sync()
        assert file.read(0, 10) == b"abcdef", "a sync changes nothing that is read"
        file.close()
        again = disk.open("f/a")
        assert (again.size, again.read(0, 10)) == (6, b"abcdef"), "nor does a close"
        again.close()
        with pytest.raises(DiskFailed):
            file.sync()

    def test_a_closed_file_fails(self, disk: Disk) -> None:
        disk.list("f")
        file = disk.open("f/a", create=True)
        file.close()
        with pytest.raises(DiskFailed):
            file.append((b"abc",))
        with pytest.raises(DiskFailed):
            file.read(0, 1)
        with pytest.raises(DiskFailed):
            file.sync()
        with pytest.raises(DiskFailed):
            file.truncate(0)

    def test_without_space_nothing_is_appended(self, disk_and_limit: tuple[Disk, Limit]) -> None:
        disk, limit = disk_and_limit
        disk.list("f")
        file = disk.open("f/a", create=True)
        file.append((b"abc",))
        with limit(10):
            with pytest.raises(NoSpace):
                file.append((b"0123", b"456789"))
            assert file.size == 3
            assert disk.open("f/a").size == 3
            assert file.append((b"0123",)) == 3
        assert file.append((b"0123456789",)) == 7
        assert file.read(0, 100) == b"abc01230123456789"


class TestLimitsOfTheProcess:
    """Having no descriptors or memory is no fault of the disk: nothing was changed, and it may work the next time."""

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
    def test_a_limit_is_told_from_a_fault(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        disk = RealDisk(Folder.at(tmp_path))
        disk.list("f")
        disk.open("f/a", create=True).close()

        def refuse(*arguments: object, **more: object) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "listdir", refuse)
        with pytest.raises(LimitReached, match=r"f/a: .*; "):
            disk.open("f/a")
        with pytest.raises(LimitReached):
            disk.list("f")

    def test_a_sync_asks_the_kernel_for_the_file_and_a_new_name_for_its_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        for call in ("fsync", "fdatasync"):
            real = getattr(os, call)

            def watched(fd: int, real: Callable[[int], None] = real) -> None:
                asked.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(tmp_path)))
                real(fd)

            monkeypatch.setattr(os, call, watched)
        disk = RealDisk(Folder.at(tmp_path))
        disk.list("f")
        file = disk.open("f/a", create=True)
        assert "/f" in asked
        asked.clear()
        file.append((b"abc",))
        assert asked == []
        file.sync()
        assert asked == ["/f/a"]

    def test_a_new_file_whose_name_cannot_be_made_durable_is_not_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = RealDisk(Folder.at(tmp_path))
        disk.list("f")

        def refuse(folder: Folder) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(Folder, "sync", refuse)
            with pytest.raises(LimitReached):
                disk.open("f/a", create=True)
        assert disk.list("f") == []
        disk.open("f/a", create=True).close()


class TestSimulatedFaults:
    def test_what_was_synced_survives_every_crash(self) -> None:
        disk = SimDisk()
        disk.list("f")
        file = disk.open("f/a", create=True)
        file.append((b"durable",))
        file.sync()
        file.append((b"perhaps",))
        for seed in range(100):
            assert disk.crash(random.Random(seed)).contents("f/a").startswith(b"durable")

    def test_every_fault_of_the_model_happens(self) -> None:
        disk = SimDisk()
        disk.list("f")
        file = disk.open("f/a", create=True)
        file.append((b"11111111",))
        file.append((b"22222222",))
        found = {disk.crash(random.Random(seed)).contents("f/a") for seed in range(2000)}
        assert b"1111111122222222" in found, "all kept"
        assert b"" in found, "all lost, with the length"
        assert bytes(16) in found, "all lost, not the length"
        assert bytes(8) + b"22222222" in found, "the later kept without the earlier"
        assert b"11111111" in found, "the later lost"
        for at in range(1, 8):
            assert b"1" * 8 + b"2" * at in found, "torn at any byte"
            assert any(one.startswith(b"1" * at) and len(one) == 16 and one[8:] == b"2" * 8 for one in found)
        assert any(set(one) - set(b"\x0012") for one in found), "rubbish"

    def test_files_are_lost_independently(self) -> None:
        disk = SimDisk()
        disk.list("f")
        for name in "ab":
            disk.open(f"f/{name}", create=True).append((b"x",))
        crashes = [disk.crash(random.Random(seed)) for seed in range(100)]
        found = {
            (one.contents("f/a").strip(b"\0") == b"x", one.contents("f/b").strip(b"\0") == b"x") for one in crashes
        }
        assert found == {(False, False), (False, True), (True, False), (True, True)}
        assert all(one.paths == ["f/a", "f/b"] for one in crashes), "names survive"

    def test_a_kill_keeps_everything_and_makes_nothing_durable(self) -> None:
        disk = SimDisk()
        disk.list("f")
        disk.open("f/a", create=True).append((b"abc",))
        after = disk.kill()
        assert after.contents("f/a") == b"abc"
        assert any(after.crash(random.Random(seed)).contents("f/a") == b"" for seed in range(100))
        disk.open("f/a").append((b"from the dead",))
        assert after.contents("f/a") == b"abc"

    def test_a_failed_sync_is_not_made_good_by_the_next(self) -> None:
        disk = SimDisk()
        disk.list("f")
        file = disk.open("f/a", create=True)
        file.append((b"doomed",))
        disk.fault = fail_at(1, DiskFailed, calls={"sync"})
        with pytest.raises(DiskFailed):
            file.sync()
        file.sync()
        assert disk.contents("f/a") == b"doomed"
        assert any(disk.crash(random.Random(seed)).contents("f/a") == b"" for seed in range(100))

    def test_a_cut_forgets_what_was_behind(self) -> None:
        stored = Stored()
        stored.data += b"abcdef"
        stored.appends = [(0, 4), (4, 6)]
        stored.cut(3)
        assert stored.appends == [(0, 3)]
        assert all(len(stored.after_power_loss(random.Random(seed)).data) <= 3 for seed in range(50))

    def test_the_nth_call_fails_and_changes_nothing(self) -> None:
        disk = SimDisk()
        disk.list("f")
        disk.fault = fail_at(2, NoSpace, calls={"append"})
        file = disk.open("f/a", create=True)
        file.append((b"1",))
        with pytest.raises(NoSpace):
            file.append((b"2",))
        file.append((b"3",))
        assert disk.contents("f/a") == b"13"
        disk.fault = fail_at(1, DiskFailed, lasting=True, under="f/b")
        file.append((b"4",))
        for _ in range(2):
            with pytest.raises(DiskFailed):
                disk.open("f/b", create=True)
        assert disk.paths == ["f/a"]


def test_a_signal_does_not_make_an_allocation_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tmpfs looks for one; the disk has not failed."""
    errors = iter([errno.EINTR, errno.EINTR, 0, errno.EINTR, errno.ENOSPC])

    def fallocate(*_: int) -> int:
        error = next(errors)
        ctypes.set_errno(error)
        return -1 if error else 0

    monkeypatch.setattr("vfs.disk._libc", SimpleNamespace(fallocate=fallocate))
    disk = RealDisk(Folder.at(tmp_path))
    disk.list("journal")
    file = disk.open("journal/00000001", create=True)
    file.reserve(1000)
    with pytest.raises(NoSpace):
        file.reserve(2000)
    file.close()
