"""Ranges that fall on the blocks of content, one byte before and one behind: what is read, and what a part copies."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

from vfs.blocks import BLOCK_BYTES

DATA = random.Random(7).randbytes(3 * BLOCK_BYTES + 100)
EDGES = sorted({0, 1, len(DATA) - 1, len(DATA)} | {at * BLOCK_BYTES + more for at in (1, 2, 3) for more in (-1, 0, 1)})


def test_any_range_is_read(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=DATA)
    for start, end in combinations(EDGES, 2):
        got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={start}-{end - 1}")
        assert got["ContentRange"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        assert got["Body"].read() == DATA[start:end], (start, end)
    for length in (1, 99, 100, 101, BLOCK_BYTES + 100, len(DATA)):
        assert s3.get_object(Bucket=bucket, Key="k", Range=f"bytes=-{length}")["Body"].read() == DATA[-length:]


def test_any_range_is_copied_to_a_part(s3: Any, bucket: str) -> None:
    """With a part before it that ends on a block, and one that does not."""
    s3.put_object(Bucket=bucket, Key="source", Body=DATA)
    at = {"Bucket": bucket, "Key": "copy"}
    first = {size: random.Random(size).randbytes(size) for size in (5 << 20, (5 << 20) + 1)}
    for number, (start, end) in enumerate(combinations(EDGES, 2)):
        before = list(first.values())[number % 2]
        upload = s3.create_multipart_upload(**at)["UploadId"]
        tags = [s3.upload_part(**at, UploadId=upload, PartNumber=1, Body=before)["ETag"]] if number % 8 < 2 else []
        copied = s3.upload_part_copy(
            **at,
            UploadId=upload,
            PartNumber=len(tags) + 1,
            CopySource={"Bucket": bucket, "Key": "source"},
            CopySourceRange=f"bytes={start}-{end - 1}",
        )
        tags.append(copied["CopyPartResult"]["ETag"])
        parts = [{"PartNumber": at, "ETag": tag} for at, tag in enumerate(tags, 1)]
        s3.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})
        wanted = (before if len(tags) > 1 else b"") + DATA[start:end]
        assert s3.get_object(**at)["Body"].read() == wanted, (start, end)
