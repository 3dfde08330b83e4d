"""``s3_durability = "close"``: what the endpoint has answered is on the disk, with a mount beside it or without.

Each record of the journal says which records were durable when it was written. So of every operation the record that
comes after it tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.mounted import Mounted
from tests.served import Served, client, listening_on, new_key
from vfs.disk import RealDisk
from vfs.folder import Folder
from vfs.journal import START, Journal, Record

BUCKET = "bucket"


def records(store: Path) -> list[Record]:
    """Those of the journal of a store that a daemon has open."""
    return list(Journal(RealDisk(Folder.at(store))).records(START))


@pytest.fixture(params=["served", pytest.param("mounted", marks=pytest.mark.fuse)])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Served | Mounted:
    made = Served(tmp_path) if request.param == "served" else Mounted(tmp_path, "--s3", "127.0.0.1:0")
    made.store.mkdir()
    return made


@pytest.fixture(params=["close", "interval"])
def answered(request: pytest.FixtureRequest, daemon: Served | Mounted) -> Iterator[tuple[Any, Path, bool]]:
    """A client, the store, and whether what it is answered must be durable."""
    settings = f'commit_interval = 3600\ngc_interval = 0\nlifecycle_interval = 0\ns3_durability = "{request.param}"\n'
    (daemon.store / "config.toml").write_text(settings)
    try:
        daemon.start()
        url = daemon.url if isinstance(daemon, Served) else listening_on(daemon.log)
        made = client(url, new_key(daemon.store, "--bypass"))
        made.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        for key in ("a", "b", "c"):
            made.put_object(Bucket=BUCKET, Key=key, Body=b"x" * 1000)
        yield made, daemon.store, request.param == "close"
        made.close()
        daemon.end()
    finally:
        daemon.clean_up()


def whole_upload(s3: Any) -> None:
    at = {"Bucket": BUCKET, "Key": "u"}
    number = s3.create_multipart_upload(**at)["UploadId"]
    part = s3.upload_part(**at, UploadId=number, PartNumber=1, Body=b"part")
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    s3.complete_multipart_upload(**at, UploadId=number, MultipartUpload=parts)


def purge(s3: Any) -> None:
    version = s3.list_object_versions(Bucket=BUCKET, Prefix="a")["Versions"][0]["VersionId"]
    s3.delete_object(Bucket=BUCKET, Key="a", VersionId=version)


def post_form(s3: Any) -> None:
    form = s3.generate_presigned_post(BUCKET, "form")
    assert requests.post(form["url"], data=form["fields"], files={"file": b"x"}, timeout=30).status_code == 204


RULES = {"Rules": [{"ID": "r", "Status": "Enabled", "Filter": {"Prefix": "x"}, "Expiration": {"Days": 1}}]}
TAGS = {"TagSet": [{"Key": "k", "Value": "v"}]}
LOCKS = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
ON_BUCKET = {"Bucket": BUCKET}
ON_B = {"Bucket": BUCKET, "Key": "b"}
CHANGES: dict[str, Callable[[Any], object]] = {
    "create bucket": lambda s3: s3.create_bucket(Bucket="another"),
    "delete bucket": lambda s3: s3.delete_bucket(Bucket="another"),
    "put": lambda s3: s3.put_object(Bucket=BUCKET, Key="a", Body=b"y"),
    "put of a new key": lambda s3: s3.put_object(Bucket=BUCKET, Key="d/e/f", Body=b"y" * 300_000),
    "copy": lambda s3: s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "b"}),
    "form": post_form,
    "tags": lambda s3: s3.put_object_tagging(**ON_B, Tagging=TAGS),
    "no tags": lambda s3: s3.delete_object_tagging(**ON_B),
    "retention": lambda s3: s3.put_object_retention(
        **ON_B, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": "2090-01-01T00:00:00Z"}
    ),
    "hold": lambda s3: s3.put_object_legal_hold(**ON_B, LegalHold={"Status": "ON"}),
    "delete": lambda s3: s3.delete_object(Bucket=BUCKET, Key="b"),
    "delete of several": lambda s3: s3.delete_objects(
        Bucket=BUCKET, Delete={"Objects": [{"Key": "copy"}, {"Key": "c"}]}
    ),
    "purge": purge,
    "upload": whole_upload,
    "begin an upload": lambda s3: s3.create_multipart_upload(Bucket=BUCKET, Key="v"),
    "lifecycle": lambda s3: s3.put_bucket_lifecycle_configuration(**ON_BUCKET, LifecycleConfiguration=RULES),
    "no lifecycle": lambda s3: s3.delete_bucket_lifecycle(**ON_BUCKET),
    "tags of the bucket": lambda s3: s3.put_bucket_tagging(**ON_BUCKET, Tagging=TAGS),
    "default lock": lambda s3: s3.put_object_lock_configuration(**ON_BUCKET, ObjectLockConfiguration=LOCKS),
}


def test_what_was_answered_is_durable(answered: tuple[Any, Path, bool]) -> None:
    s3, store, wanted = answered
    before = records(store)[-1].number
    ends = {}
    for name, change in CHANGES.items():
        change(s3)
        ends[name] = records(store)[-1].number
        assert ends[name] > before, f"{name} changes something"
        before = ends[name]
    s3.put_object(Bucket=BUCKET, Key="last", Body=b"")
    found = {record.number: record for record in records(store)}
    durable = {name: found[end + 1].durable >= end for name, end in ends.items()}
    assert durable == dict.fromkeys(CHANGES, wanted)
