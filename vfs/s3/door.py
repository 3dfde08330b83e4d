"""The door itself: from a request to the handler that answers it, by one table; who may; errors to answers."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

from vfs.catalog import UNREADABLE
from vfs.errors import NoSuchKey, VfsError
from vfs.names import show
from vfs.s3 import buckets, forms, lifecycle, listings, multipart, objects, protection
from vfs.s3.body import Body
from vfs.s3.call import Call, http_date
from vfs.s3.dialects import S3
from vfs.s3.errors import S3Error, translated
from vfs.s3.keys import Keys, Right
from vfs.s3.request import Request, parse
from vfs.s3.response import Document, Response, failed
from vfs.s3.server import Disconnected, Incoming, TooSlow
from vfs.s3.signatures import authenticate, authenticate_form, dialect_for, dialect_of
from vfs.s3.signed import Signed
from vfs.service.health import Health
from vfs.service.process import Settle
from vfs.store import Store

log = logging.getLogger("vfs.s3")

Handler = Callable[[Call], Awaitable[Response | Document]]


class Level(Enum):
    """What a request is about."""

    SERVICE = "service"
    BUCKET = "bucket"
    OBJECT = "object"


class Route(NamedTuple):
    """needs: what the key must have the right to, whatever else the handler asks for."""

    handler: Handler
    needs: Right = Right.READ


_WRITE, _PURGE, _HOLD = Right.WRITE, Right.PURGE, Right.HOLD

# (method, level, subresource) -> handler. The subresource is a parameter of the query, or `copy` for a PUT with a
# source. HEAD without a row of its own is answered as GET.
ROUTES: dict[tuple[str, Level, str], Route] = {
    ("GET", Level.SERVICE, ""): Route(listings.list_buckets),
    ("PUT", Level.BUCKET, ""): Route(buckets.create_bucket, _WRITE),
    ("GET", Level.BUCKET, ""): Route(listings.list_objects),
    ("HEAD", Level.BUCKET, ""): Route(buckets.head_bucket),
    ("DELETE", Level.BUCKET, ""): Route(buckets.delete_bucket, _WRITE),
    ("GET", Level.BUCKET, "location"): Route(buckets.get_location),
    ("GET", Level.BUCKET, "versioning"): Route(buckets.get_versioning),
    ("PUT", Level.BUCKET, "versioning"): Route(buckets.put_versioning, _WRITE),
    ("GET", Level.BUCKET, "versions"): Route(listings.list_versions),
    ("POST", Level.BUCKET, "delete"): Route(objects.delete_objects, _WRITE),
    ("GET", Level.BUCKET, "uploads"): Route(multipart.list_uploads),
    ("GET", Level.BUCKET, "tagging"): Route(buckets.get_tags),
    ("PUT", Level.BUCKET, "tagging"): Route(buckets.put_tags, _WRITE),
    ("DELETE", Level.BUCKET, "tagging"): Route(buckets.delete_tags, _WRITE),
    ("GET", Level.BUCKET, "lifecycle"): Route(lifecycle.get_lifecycle),
    ("PUT", Level.BUCKET, "lifecycle"): Route(lifecycle.put_lifecycle, _PURGE),
    ("DELETE", Level.BUCKET, "lifecycle"): Route(lifecycle.delete_lifecycle, _PURGE),
    ("GET", Level.BUCKET, "object-lock"): Route(protection.get_lock),
    ("PUT", Level.BUCKET, "object-lock"): Route(protection.put_lock, _HOLD),
    ("GET", Level.BUCKET, "acl"): Route(buckets.get_acl),
    ("PUT", Level.BUCKET, "acl"): Route(buckets.put_acl, _WRITE),
    ("GET", Level.BUCKET, "bucketInfo"): Route(buckets.get_info),
    ("GET", Level.OBJECT, ""): Route(objects.get_object),
    ("PUT", Level.OBJECT, ""): Route(objects.put_object, _WRITE),
    ("PUT", Level.OBJECT, "copy"): Route(objects.copy_object, _WRITE),
    ("DELETE", Level.OBJECT, ""): Route(objects.delete_object, _WRITE),
    ("HEAD", Level.OBJECT, "objectMeta"): Route(objects.get_object),
    ("GET", Level.OBJECT, "attributes"): Route(objects.get_attributes),
    ("POST", Level.OBJECT, "uploads"): Route(multipart.create, _WRITE),
    ("PUT", Level.OBJECT, "uploadId"): Route(multipart.put_part, _WRITE),
    ("PUT", Level.OBJECT, "uploadId copy"): Route(multipart.copy_part, _WRITE),
    ("GET", Level.OBJECT, "uploadId"): Route(multipart.list_parts),
    ("POST", Level.OBJECT, "uploadId"): Route(multipart.complete, _WRITE),
    ("DELETE", Level.OBJECT, "uploadId"): Route(multipart.abort, _WRITE),
    ("GET", Level.OBJECT, "tagging"): Route(protection.get_tags),
    ("PUT", Level.OBJECT, "tagging"): Route(protection.put_tags, _WRITE),
    ("DELETE", Level.OBJECT, "tagging"): Route(protection.delete_tags, _WRITE),
    ("GET", Level.OBJECT, "retention"): Route(protection.get_retention),
    ("PUT", Level.OBJECT, "retention"): Route(protection.put_retention, _HOLD),
    ("GET", Level.OBJECT, "legal-hold"): Route(protection.get_legal_hold),
    ("PUT", Level.OBJECT, "legal-hold"): Route(protection.put_legal_hold, _HOLD),
    ("GET", Level.OBJECT, "acl"): Route(buckets.get_acl),
    ("PUT", Level.OBJECT, "acl"): Route(buckets.put_acl, _WRITE),
    **{("GET", Level.BUCKET, name): Route(buckets.get_absent) for name in (*buckets.ABSENT, *buckets.EMPTY)},
    **{("DELETE", Level.BUCKET, name): Route(buckets.delete_absent, _WRITE) for name in buckets.ABSENT},
}

# Parameters that make another operation of a request. Those without a row in the table are refused.
_SUBRESOURCES = frozenset(name for _, _, name in ROUTES if name) | frozenset(
    [
        "analytics",
        "append",
        "callback",
        "cname",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "inventoryId",
        "metrics",
        "policy",
        "rename",
        "referer",
        "restore",
        "select",
        "select-type",
        "session",
        "stat",
        "style",
        "symlink",
        "torrent",
        "worm",
        "x-oss-process",
        "x-image-process",
    ]
)
_DECISIVE = _SUBRESOURCES | {"partNumber", "versionId"}  # what a request does is in these: they must be signed

# Parameters that say more about a request, and may be empty.
_PARAMETERS = frozenset(
    [
        "apiversion",
        "continuation-token",
        "delimiter",
        "encoding-type",
        "fetch-owner",
        "key-marker",
        "list-type",
        "marker",
        "max-buckets",
        "max-keys",
        "max-parts",
        "max-uploads",
        "part-number-marker",
        "partNumber",
        "prefix",
        "start-after",
        "upload-id-marker",
        "version-id-marker",
        "versionId",
    ]
)
_PREFIXES = ("response-", "x-")
METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE"))


class Door:
    """Answers requests to a store. settle: waits until what changed is safe and seen."""

    def __init__(self, store: Store, settle: Settle, health: Health) -> None:
        self._health = health
        self._store = store
        self._settle = settle
        self._keys = Keys(store.root)

    async def answer(self, incoming: Incoming) -> Response:
        """The answer to a request, whatever it is."""
        request_id = secrets.token_hex(8).upper()
        dialect = S3
        request: Request | None = None
        try:
            request = parse(incoming.method, incoming.target, incoming.headers, self._store.settings.s3_domains)
            dialect = dialect_of(request)
            response = await self._answer(request, incoming)
        except (S3Error, VfsError) as error:
            response = self._failed(error, request, incoming, request_id)
        except (TooSlow, Disconnected):
            raise
        except MemoryError:
            response = self._failed(S3Error("SlowDown", "out of memory"), request, incoming, request_id)
        except Exception as error:
            if type(error).__module__.startswith(("trio", "h11")):
                raise
            if isinstance(error, UNREADABLE):
                self._health.unreadable(error)
            elif isinstance(error, OSError):
                log.error("%s %s failed: %s", incoming.method, show(_path(incoming)), error)
            else:
                log.exception("%s %s failed; this is a bug in vfs", incoming.method, show(_path(incoming)))
            response = self._failed(S3Error("InternalError", "an internal error"), request, incoming, request_id)
        log.debug("%s %s: %d", incoming.method, show(_path(incoming)), response.status)
        now = self._store.core.clock() // 1000
        headers = {"x-amz-request-id": request_id, "x-amz-id-2": request_id, "Date": http_date(now), "Server": "vfs"}
        return response._replace(headers=dict(dialect.from_amz((headers | dict(response.headers)).items())))

    def _failed(self, error: S3Error | VfsError, request: Request | None, incoming: Incoming, number: str) -> Response:
        found = error if isinstance(error, S3Error) else translated(error)
        if found.status >= 500 and isinstance(error, VfsError):
            self._health.met(error, f"{incoming.method} {show(_path(incoming))}")
        if isinstance(error, NoSuchKey) and error.marker is None and self._store.settings.s3_compatibility == "ceph":
            found.headers = {"x-amz-delete-marker": "false"}
        resource = _path(incoming).decode("utf-8", "replace")
        response = failed(found, resource=resource, request_id=number, host=request.domain if request else "")
        return response._replace(body=b"") if incoming.method == "HEAD" else response

    async def _answer(self, request: Request, incoming: Incoming) -> Response:
        if request.method == "HEAD" and request.parameter("apiversion") is not None:
            return Response(200, {"x-obs-api": "3.0"})  # asked before anything is signed, by the SDK of OBS
        if request.method not in METHODS:
            raise S3Error("MethodNotAllowed", "The specified method is not allowed against this resource.")
        clock = self._store.core.clock()
        now = datetime.fromtimestamp(clock / 1e9, UTC)
        signed = authenticate(request, self._keys.secret, now)
        if signed is None:
            is_form = (request.header("content-type") or "").startswith("multipart/form-data")
            if request.method == "POST" and request.bucket is not None and request.key is None and is_form:
                return await self._post(request, incoming)
            raise S3Error("AccessDenied", "Access Denied")
        call = self._call(request, signed, incoming)
        route = self._route(call.request, signed)
        call.require(route.needs)
        return await self._finish(call, await route.handler(call), writes=route.needs is not Right.READ)

    async def _finish(self, call: Call, answer: Response | Document, *, writes: bool) -> Response:
        if writes:
            await self._settle(call.changed)
        if isinstance(answer, Document):
            return answer.written(call.dialect, call.request.domain)
        return answer

    def _call(self, request: Request, signed: Signed, incoming: Incoming) -> Call:
        who = self._keys.find(signed.access_key)
        if who is None:  # revoked in this moment
            raise S3Error("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
        dialect = dialect_for(request, signed)
        incoming.verified()
        headers = {**signed.headers, **dialect.to_amz(request.headers)}
        translated_request = request._replace(headers=headers)
        body = Body(incoming.receive, translated_request, signed)
        now = self._store.core.clock() // 1000
        settings = self._store.settings
        return Call(self._store, self._keys, settings, translated_request, dialect, who, body, now, signed.signature)

    def _route(self, request: Request, signed: Signed) -> Route:
        """What a request is about. Raises S3Error, also where the signature does not say so: who was given a signed
        request must not make another one of it.
        """
        level = Level.SERVICE if request.bucket is None else Level.BUCKET if request.key is None else Level.OBJECT
        for name, value in request.query:  # of a service that has grown: no operation must pass for another
            if not (value or name in _SUBRESOURCES or name in _PARAMETERS or name.lower().startswith(_PREFIXES)):
                raise S3Error("NotImplemented", f"{request.method} ?{name} is not implemented")
        given = {name for name, _ in request.query}
        for name in sorted(given & _DECISIVE):
            if not signed.covers(name):
                raise S3Error("AccessDenied", f"this version of signatures does not cover the parameter {name}")
        names = sorted(given & _SUBRESOURCES)
        if level is Level.OBJECT and "uploadId" in names:
            names = ["uploadId"]
        if len(names) > 1:
            raise S3Error("InvalidArgument", f"Conflicting query string parameters: {', '.join(names)}")
        words = names
        if request.method == "PUT" and level is Level.OBJECT and request.amz("copy-source") is not None:
            words = [*names, "copy"]
        found = ROUTES.get((request.method, level, " ".join(words)))
        if found is None and request.method == "HEAD":
            found = ROUTES.get(("GET", level, " ".join(words)))
        if found is None:
            if names:
                raise S3Error("NotImplemented", f"{request.method} ?{names[0]} is not implemented")
            raise S3Error("MethodNotAllowed", "The specified method is not allowed against this resource.")
        return found

    async def _post(self, request: Request, incoming: Incoming) -> Response:
        form = forms.Form(request.header("content-type") or "")
        pieces: list[bytes] = []
        while not form.has_file:
            raw = await incoming.receive()
            if not raw:
                raise S3Error("InvalidArgument", "POST requires exactly one file upload per request.")
            pieces = form.feed(raw)
        signed = authenticate_form(form.fields, self._keys.secret)
        if signed is None:
            raise S3Error("AccessDenied", "Access Denied")
        call = self._call(request._replace(headers={}), signed, incoming)
        return await self._finish(call, await forms.post_object(call, form, pieces, incoming.receive), writes=True)


def _path(incoming: Incoming) -> bytes:
    """Of a request, without its parameters, which may hold a signature."""
    return incoming.target.partition(b"?")[0]
