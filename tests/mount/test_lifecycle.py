"""`vfs lifecycle` on a real mount: rules set, seen, previewed, carried out and logged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.test_cli import fails, ok, vfs
from tests.mounted import Mounted, contents, wait_until

pytestmark = pytest.mark.fuse

DAY_S = 0.5  # of the first daemon, which carries nothing out
AWS = {
    "Rules": [
        {
            "ID": "logs",
            "Status": "Enabled",
            "Filter": {"And": {"Prefix": "log/", "Tags": [{"Key": "a", "Value": "b"}], "ObjectSizeLessThan": 9}},
            "Expiration": {"Days": 30},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 7, "NewerNoncurrentVersions": 3},
        },
        {"ID": "markers", "Status": "Disabled", "Filter": {}, "Expiration": {"ExpiredObjectDeleteMarker": True}},
        {"ID": "one", "Status": "Enabled", "Filter": {"Tag": {"Key": "k", "Value": "v"}}, "Expiration": {"Days": 1}},
    ]
}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    mount = Mounted(tmp_path)
    mount.store.mkdir()
    (mount.store / "config.toml").write_text(f"lifecycle_interval = 0\nlifecycle_day = {DAY_S}\n")
    try:
        mount.start()
        (mount.root / "docs").mkdir()
        yield mount
        mount.end()
    finally:
        mount.clean_up()


def test_rules_are_set_and_shown(mount: Mounted, tmp_path: Path) -> None:
    docs = mount.root / "docs"
    assert ok("lifecycle", "show", docs) == ""
    assert ok("lifecycle", "set", docs, "--noncurrent-days", 30, "--keep", 5) == (
        "default: purges old versions after 30 days, but keeps 5\n"
    )
    ok("lifecycle", "set", docs, "tmp", "--prefix", "tmp/", "--expire-days", 1, "--abort-days", 2, "--disabled")
    ok("lifecycle", "set", docs, "default", "--keep", 9)
    assert ok("lifecycle", "show", docs).splitlines() == [
        "tmp\ttmp/*\tdeletes after 1 day; gives uploads up after 2 days (disabled)",
        "default\t*\tpurges old versions, but keeps 9",
    ]
    assert "no rule other" in fails(1, "lifecycle", "remove", docs, "other")
    ok("lifecycle", "remove", docs, "tmp")
    assert ok("lifecycle", "show", docs).count("\n") == 1
    ok("lifecycle", "remove", docs)
    assert json.loads(ok("lifecycle", "show", "--json", docs)) == {"Rules": []}
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(AWS))
    assert ok("lifecycle", "load", docs, file) == "3 rules\n"
    assert json.loads(ok("lifecycle", "show", "--json", docs)) == AWS
    mount.stop()
    mount.start()
    assert json.loads(ok("lifecycle", "show", "--json", docs)) == AWS


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--expire-days", "0"], "positive"),
        (["--markers", "--expire-days", "1"], "an expiration has"),
        ([], "does nothing"),
        (["--keep", "-1"], "positive"),
    ],
)
def test_rules_that_cannot_be(mount: Mounted, options: list[str], told: str) -> None:
    assert told in fails(2, "lifecycle", "set", mount.root / "docs", *options)
    assert ok("lifecycle", "show", mount.root / "docs") == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "no JSON"),
        ('{"Rules": []}', "has rules"),
        ('{"Rules": [{"ID": "x", "Status": "Enabled", "Transitions": []}]}', "At least one action"),
        ('{"Rules": [{"ID": "x", "Status": "Enabled", "Other": 1}]}', "has no Other"),
        ('{"Rules": [{"ID": "x", "Status": "Enabled", "Expiration": {"Days": 0}}]}', "positive"),
    ],
)
def test_files_that_are_none(mount: Mounted, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "rules.json"
    file.write_text(text)
    assert told in fails(2, "lifecycle", "load", mount.root / "docs", file)


def test_what_is_due_is_previewed_carried_out_and_logged(mount: Mounted) -> None:
    docs = mount.root / "docs"
    for content in "abc":
        (docs / "f").write_text(content)
    (docs / "gone").write_text("x")
    (docs / "gone").unlink()
    assert "would go" not in vfs("lifecycle", "preview", docs).stdout
    ok("lifecycle", "set", docs, "old", "--noncurrent-days", 1)
    ok("lifecycle", "set", docs, "markers", "--markers")
    first, second = sorted(os.listdir(docs / ".versions/f"))[:2]
    wait_until(lambda: len(vfs("lifecycle", "preview", docs).stdout.splitlines()) == 3, "three versions to be due")
    done = vfs("lifecycle", "preview", docs)
    assert done.stdout.splitlines()[:2] == [f"purge\tf\t{first}\t1 B\told", f"purge\tf\t{second}\t1 B\told"]
    assert done.stderr == "0 would be deleted, 3 purged (3 B), 0 uploads given up\n"
    assert contents(docs / "f") == [b"a", b"b", b"c"], "nothing went"
    assert ok("lifecycle", "log", mount.store) == ""
    mount.stop()
    (mount.store / "config.toml").write_text(f"lifecycle_interval = 0.05\nlifecycle_day = {DAY_S}\n")
    mount.start()
    wait_until(lambda: os.listdir(docs / ".versions") == ["f"], "all that is due to go")
    assert contents(docs / "f") == [b"c"]
    lines = json.loads(ok("lifecycle", "log", "--json", mount.store))
    assert [(line["Action"], line["Bucket"], line["Key"], line["Rule"]) for line in lines] == [
        ("purge", "docs", "f", "old"),
        ("purge", "docs", "f", "old"),
        ("purge", "docs", "gone", "old"),
        ("purge", "docs", "gone", "markers"),
    ]
    assert {line["Id"] for line in lines} >= {first, second}


def test_only_the_owner_of_a_bucket_sets_and_previews() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    folder = Path(tempfile.mkdtemp(prefix="vfs-lifecycle-"))
    folder.chmod(0o755)
    mount = Mounted(folder, "-o", "allow_other")
    try:
        mount.start()
        docs = mount.root / "docs"
        docs.mkdir()
        for name in ("lifecycle", "expiring"):
            set_it = f"import os; os.setxattr({str(docs)!r}, 'user.vfs.{name}', b'[]')"
            done = subprocess.run(
                ["/usr/bin/python3", "-c", set_it], user=65534, capture_output=True, text=True, timeout=60
            )
            assert "PermissionError" in done.stderr, name
        get_it = f"import os; os.getxattr({str(docs)!r}, 'user.vfs.expiring')"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", get_it], user=65534, capture_output=True, text=True, timeout=60
        )
        assert "PermissionError" in done.stderr
        mount.end()
    finally:
        mount.clean_up()
        shutil.rmtree(folder)
