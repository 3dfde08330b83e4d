"""Programs that people use with S3, unmodified: each takes a tree there and back."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import wait_until
from tests.served import Served, environment

MIB = 1 << 20
SECONDS_MAX = 120


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Some files, with names that are hard to put into a URL."""
    found = tmp_path / "tree"
    chance = random.Random(7)
    for name, size in {
        "empty": 0,
        "a": 1,
        "dir/sub/b": 100_000,
        "dir/with space and + and %41 &?#": 10,
        "dir/ünïcode ☃": 2000,
        "dir/..double..dots": 3,
        "big": 11 * MIB,
    }.items():
        path = found / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*command: object, env: dict[str, str], code: int = 0) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, env=env)
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def env(served: Served, key: dict[str, Any], tmp_path: Path) -> dict[str, str]:
    """For all programs: nothing of this user's own settings."""
    found = environment(key) | {
        "HOME": str(tmp_path),
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_V_TYPE": "s3",
        "RCLONE_CONFIG_V_PROVIDER": "Other",
        "RCLONE_CONFIG_V_ENDPOINT": served.url,
        "RCLONE_CONFIG_V_ACCESS_KEY_ID": key["AccessKeyId"],
        "RCLONE_CONFIG_V_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "RCLONE_S3_UPLOAD_CUTOFF": "8M",
        "RCLONE_S3_CHUNK_SIZE": "5M",
    }
    found.pop("AWS_CA_BUNDLE", None)  # rclone stumbles over one
    return found


def test_rclone(env: dict[str, str], s3: Any, versioned: str, tree: Path, tmp_path: Path) -> None:
    run("rclone", "sync", tree, f"V:{versioned}/t", env=env)
    run("rclone", "check", tree, f"V:{versioned}/t", env=env)
    run("rclone", "check", "--download", tree, f"V:{versioned}/t", env=env)
    run("rclone", "copy", f"V:{versioned}/t", tmp_path / "back", env=env)
    assert files(tmp_path / "back") == files(tree)
    old = (tree / "a").read_bytes()
    time.sleep(1.1)  # rclone tells versions apart by milliseconds, and modified files by their time
    (tree / "a").write_bytes(b"changed")
    run("rclone", "sync", tree, f"V:{versioned}/t", env=env)
    names = run("rclone", "lsf", "--s3-versions", f"V:{versioned}/t", env=env).split()
    (version,) = [name for name in names if name.startswith("a-v")]
    run("rclone", "copy", "--s3-versions", "--include", f"/{version}", f"V:{versioned}/t", tmp_path / "old", env=env)
    assert files(tmp_path / "old") == {version: old}
    run("rclone", "moveto", f"V:{versioned}/t/big", f"V:{versioned}/t/moved", env=env)
    listed = json.loads(run("rclone", "lsjson", "-R", "--files-only", f"V:{versioned}/t", env=env))
    assert {item["Path"] for item in listed} == {*files(tree)} - {"big"} | {"moved"}
    run("rclone", "delete", f"V:{versioned}/t", env=env)
    assert "Contents" not in s3.list_objects_v2(Bucket=versioned)
    assert len(s3.list_object_versions(Bucket=versioned)["DeleteMarkers"]) == len(files(tree)) + 1
    run("rclone", "purge", f"V:{versioned}/t", env=env)  # old versions too
    assert not {"Versions", "DeleteMarkers"} & {*s3.list_object_versions(Bucket=versioned)}


def test_restic(env: dict[str, str], served: Served, bucket: str, tree: Path, tmp_path: Path) -> None:
    env |= {"RESTIC_PASSWORD": "secret", "RESTIC_REPOSITORY": f"s3:{served.url}/{bucket}/restic"}
    env |= {"RESTIC_CACHE_DIR": str(tmp_path / "cache")}
    run("restic", "init", env=env)
    run("restic", "backup", tree, env=env)
    before = files(tree)
    (tree / "big").write_bytes(b"small")
    (tree / "a").unlink()
    run("restic", "backup", tree, env=env)
    run("restic", "check", "--read-data", env=env)
    first, last = (snapshot["id"] for snapshot in json.loads(run("restic", "snapshots", "--json", env=env)))
    for snapshot, wanted in ((first, before), (last, files(tree))):
        target = tmp_path / snapshot
        run("restic", "restore", snapshot, "--target", target, env=env)
        assert files(target / tree.relative_to("/")) == wanted
    run("restic", "forget", "--keep-last", "1", "--prune", env=env)
    run("restic", "check", "--read-data", env=env)


def test_s3cmd(env: dict[str, str], served: Served, s3: Any, name: str, tree: Path, tmp_path: Path) -> None:
    host = served.url.removeprefix("http://")
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {env['AWS_ACCESS_KEY_ID']}\nsecret_key = {env['AWS_SECRET_ACCESS_KEY']}\n"
        f"host_base = {host}\nhost_bucket = {host}\nuse_https = False\nmultipart_chunk_size_mb = 5\n"
    )
    s3cmd = ("s3cmd", "-c", config)
    run(*s3cmd, "mb", f"s3://{name}", env=env)
    run(*s3cmd, "sync", f"{tree}/", f"s3://{name}/t/", env=env)
    run(*s3cmd, "put", tree / "a", f"s3://{name}/t/a", env=env)
    back = tmp_path / "back"
    back.mkdir()
    run(*s3cmd, "sync", f"s3://{name}/t/", f"{back}/", env=env)
    assert files(back) == files(tree)
    run(*s3cmd, "cp", f"s3://{name}/t/big", f"s3://{name}/copied", env=env)
    run(*s3cmd, "mv", f"s3://{name}/copied", f"s3://{name}/moved", env=env)
    assert s3.head_object(Bucket=name, Key="moved")["ContentLength"] == 11 * MIB
    assert "moved" in run(*s3cmd, "ls", f"s3://{name}", env=env)
    assert "11534336" in run(*s3cmd, "info", f"s3://{name}/moved", env=env)
    run(*s3cmd, "del", "--recursive", "--force", f"s3://{name}", env=env)
    assert run(*s3cmd, "ls", f"s3://{name}", env=env) == ""


def test_aws_s3(env: dict[str, str], served: Served, s3: Any, versioned: str, tree: Path, tmp_path: Path) -> None:
    def aws(*words: object) -> str:
        return run("aws", f"--endpoint-url={served.url}", "s3", *words, env=env)

    aws("sync", tree, f"s3://{versioned}/t")
    assert aws("sync", tree, f"s3://{versioned}/t") == ""
    aws("sync", f"s3://{versioned}/t", tmp_path / "back")
    assert files(tmp_path / "back") == files(tree)
    aws("mv", f"s3://{versioned}/t/big", f"s3://{versioned}/big")
    url = aws("presign", f"s3://{versioned}/big").strip()
    assert run("curl", "-sf", url, "-o", tmp_path / "got", env=env) == ""
    assert (tmp_path / "got").read_bytes() == (tree / "big").read_bytes()
    aws("rm", "--recursive", f"s3://{versioned}")
    assert "Contents" not in s3.list_objects_v2(Bucket=versioned)


@pytest.fixture
def s3fs(env: dict[str, str], served: Served, bucket: str, tmp_path: Path) -> Iterator[Path]:
    secret = tmp_path / "passwd"
    secret.write_text(f"{env['AWS_ACCESS_KEY_ID']}:{env['AWS_SECRET_ACCESS_KEY']}\n")
    secret.chmod(0o600)
    point = tmp_path / "s3fs"
    point.mkdir()
    options = f"passwd_file={secret},url={served.url},use_path_request_style,multipart_size=5,nomixupload"
    run("s3fs", bucket, point, "-o", options, env=env)
    try:
        wait_until(lambda: os.path.ismount(point), "s3fs")
        yield point
    finally:
        subprocess.run(["fusermount3", "-uz", str(point)], check=False, timeout=SECONDS_MAX)


@pytest.mark.fuse
def test_s3fs(s3fs: Path, env: dict[str, str], s3: Any, bucket: str, tree: Path) -> None:
    """Each command with a time of its own: a mount that hangs must not hang the tests."""
    run("cp", "-r", tree, s3fs / "t", env=env)
    assert files(s3fs / "t") == files(tree)
    run("mv", s3fs / "t/dir", s3fs / "t/renamed", env=env)
    run("bash", "-c", f"echo more >> '{s3fs}/t/a'", env=env)
    shutil.move(tree / "dir", tree / "renamed")
    with (tree / "a").open("ab") as file:
        file.write(b"more\n")
    assert files(s3fs / "t") == files(tree)
    keys = {item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert {key for key in keys if not key.endswith("/")} == {f"t/{name}" for name in files(tree)}
    run("rm", "-r", s3fs / "t", env=env)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
