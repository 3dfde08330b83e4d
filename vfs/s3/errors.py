"""What clients are told when something fails: the codes of S3, and the one table from the errors of the domain to them.

Codes and their status: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

from collections.abc import Mapping

from vfs import errors

STATUS: dict[str, int] = {
    "AccessControlListNotSupported": 400,
    "AccessDenied": 403,
    "AuthorizationHeaderMalformed": 400,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "BadRequest": 400,
    "BucketAlreadyExists": 409,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "FileAlreadyExists": 409,
    "IllegalLocationConstraintException": 400,
    "IllegalVersioningConfigurationException": 400,
    "IncompleteBody": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidBucketName": 400,
    "InvalidBucketState": 409,
    "InvalidDigest": 400,
    "InvalidPart": 400,
    "InvalidPartNumber": 416,
    "InvalidPartOrder": 400,
    "InvalidPolicyDocument": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "InvalidRetentionPeriod": 400,
    "InvalidStorageClass": 400,
    "InvalidTag": 400,
    "InvalidURI": 400,
    "KeyTooLongError": 400,
    "MalformedPOSTRequest": 400,
    "MalformedXML": 400,
    "MaxMessageLengthExceeded": 400,
    "MetadataTooLarge": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NoSuchBucketPolicy": 404,
    "NoSuchCORSConfiguration": 404,
    "NoSuchKey": 404,
    "NoSuchLifecycleConfiguration": 404,
    "NoSuchObjectLockConfiguration": 404,
    "NoSuchPublicAccessBlockConfiguration": 404,
    "NoSuchTagSet": 404,
    "NoSuchUpload": 404,
    "NoSuchVersion": 404,
    "NoSuchWebsiteConfiguration": 404,
    "NotImplemented": 501,
    "NotModified": 304,
    "ObjectLockConfigurationNotFoundError": 404,
    "OwnershipControlsNotFoundError": 404,
    "PreconditionFailed": 412,
    "ReplicationConfigurationNotFoundError": 404,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServerSideEncryptionConfigurationNotFoundError": 404,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "TooManyBuckets": 400,
    "UnresolvableGrantByEmailAddress": 400,
    "XAmzContentSHA256Mismatch": 400,
}

CODE: dict[type[errors.VfsError], str] = {
    errors.NoSuchBucket: "NoSuchBucket",
    errors.NoSuchKey: "NoSuchKey",
    errors.NoSuchInode: "NoSuchKey",
    errors.NoSuchVersion: "NoSuchVersion",
    errors.BucketExists: "BucketAlreadyOwnedByYou",
    errors.BucketNotEmpty: "BucketNotEmpty",
    errors.InvalidName: "InvalidArgument",
    errors.NameTooLong: "KeyTooLongError",
    errors.InvalidState: "InvalidBucketState",
    errors.InvalidRule: "InvalidArgument",
    errors.Exists: "InvalidRequest",
    errors.NotADirectory: "InvalidRequest",
    errors.IsADirectory: "InvalidRequest",
    errors.DirectoryNotEmpty: "InvalidRequest",
    errors.CrossBucket: "InvalidRequest",
    errors.NotPermitted: "AccessDenied",
    errors.AccessDenied: "AccessDenied",
    errors.ReadOnly: "AccessDenied",
    errors.TooLarge: "EntityTooLarge",
    errors.Unstorable: "InvalidArgument",
    errors.TooManyLinks: "InvalidRequest",
    errors.TooManyBuckets: "TooManyBuckets",
    errors.AttributeTooLarge: "MetadataTooLarge",
    errors.AttributesFull: "MetadataTooLarge",
    errors.NoSuchAttribute: "InvalidRequest",
    errors.NoSpace: "ServiceUnavailable",
    errors.LimitReached: "SlowDown",
    errors.DiskFailed: "InternalError",
    errors.Corrupt: "InternalError",
    errors.NotAStore: "InternalError",
    errors.Unsafe: "InternalError",
    errors.StoreInUse: "InternalError",
    errors.Locked: "AccessDenied",
    errors.NoLock: "InvalidRequest",
    errors.ConditionFailed: "PreconditionFailed",
    errors.NoSuchUpload: "NoSuchUpload",
    errors.InvalidPart: "InvalidPart",
    errors.TooManyUploads: "SlowDown",
}


class S3Error(Exception):
    """What a request is answered with that fails. code: one of `STATUS`. fields: elements of the answer's XML.
    headers: of the answer, in the words of S3.
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message
        self.status = STATUS[code]
        self.fields = fields or {}
        self.headers = headers or {}


def translated(error: errors.VfsError) -> S3Error:
    """An error of the domain in S3's words."""
    code = next(CODE[kind] for kind in type(error).__mro__ if kind in CODE)
    if isinstance(error, errors.NoSuchKey):
        marker = error.marker
        headers = {} if marker is None else {"x-amz-delete-marker": "true", "x-amz-version-id": marker}
        return S3Error(code, "The specified key does not exist.", headers=headers)
    return S3Error(code, str(error))
