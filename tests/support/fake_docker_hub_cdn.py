"""The CDN behind Docker Hub, imitated: URLs that are signed for a method and for a time, as S3 signs them.

AWS, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)". A URL that is over is
answered with 403, and so is one for another method; an Authorization beside the signature with 400.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Mapping

from tests.support.origin import Answer, Origin, Seen

BLOBS = "/registry-v2/docker/registry/v2/blobs/"
TWICE = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
    "parameter or the Authorization header should be specified"
)


class Cdn:
    """Blobs by signed URLs. `expired` counts the requests that came too late.

    `lifetime` may be changed at any time, for the URLs that are signed from then on. `faults` are used up one
    by one: each is given an answer with a blob and returns what is said in its place.
    """

    def __init__(self, origin: Origin, lifetime: int, clock: Callable[[], float]) -> None:
        self.origin = origin
        self.lifetime = lifetime
        self.blobs: dict[str, bytes] = {}
        self.expired = 0
        self.faults: list[Callable[[Answer], Answer]] = []
        self._clock = clock
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)
        origin.on(f"{BLOBS}*", self._answer)

    def url(self, method: str, digest: str) -> str:
        """Sign a URL for this method, from now on until its lifetime ends."""
        date = dt.datetime.fromtimestamp(self._clock(), dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        path = self._path(digest)
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"AKIAIMITATION/{date[:8]}/us-east-1/s3/aws4_request",
            "X-Amz-Date": date,
            "X-Amz-Expires": str(self.lifetime),
            "X-Amz-SignedHeaders": "host",
        }
        query["X-Amz-Signature"] = self._sign(method, path, query)
        return f"{self.origin.url}{path}?{urllib.parse.urlencode(query)}"

    def hits(self, digest: str) -> int:
        """How many requests for this blob have come."""
        return self.origin.hits[self._path(digest)]

    def _path(self, digest: str) -> str:
        algorithm, _, name = digest.partition(":")
        return f"{BLOBS}{algorithm}/{name[:2]}/{name}/data"

    def _sign(self, method: str, path: str, query: Mapping[str, str]) -> str:
        signed = {name: value for name, value in query.items() if name != "X-Amz-Signature"}
        text = f"{method}\n{path}\n{urllib.parse.urlencode(sorted(signed.items()))}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _answer(self, seen: Seen) -> Answer:
        query = dict(urllib.parse.parse_qsl(seen.target.partition("?")[2]))
        if seen.get("authorization") is not None and query:
            return _xml(400, "InvalidArgument", TWICE)
        if not query:
            return _xml(403, "AccessDenied", "Access Denied")
        if query.get("X-Amz-Signature") != self._sign(seen.method, seen.path, query):
            said = "The request signature we calculated does not match the signature you provided."
            return _xml(403, "SignatureDoesNotMatch", said)
        signed_at = dt.datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        if (
            self._clock() > signed_at.timestamp() + int(query["X-Amz-Expires"]) + 1
        ):  # the date has no fractions
            self.expired += 1
            return _xml(403, "AccessDenied", "Request has expired")
        digest = f"sha256:{seen.path.split('/')[-2]}"
        # S3 knows nothing of registries: no Docker-Content-Digest, and an ETag of its own.
        etag = hashlib.md5(self.blobs[digest], usedforsecurity=False).hexdigest()
        headers = {"content-type": "application/octet-stream", "etag": f'"{etag}"', "server": "AmazonS3"}
        answer = Answer(self.blobs[digest], headers=headers)
        with self._lock:
            fault = self.faults.pop(0) if self.faults else None
        return fault(answer) if fault is not None else answer


def _xml(status: int, code: str, message: str) -> Answer:
    error = f"<Code>{code}</Code><Message>{message}</Message><RequestId>{uuid.uuid4().hex}</RequestId>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{error}</Error>'
    return Answer(body.encode(), status, {"content-type": "application/xml", "server": "AmazonS3"})
