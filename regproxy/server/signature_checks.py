"""Find out whether an image is signed by one of some keys, by asking its registry for the signatures.

Signatures are judged by their cryptography alone (see `policy.signatures`), so it does not matter who has
shown them, nor by whose credentials: that an image is signed is true for every client, and is remembered for
all of them for as long as the image is stored. It stays true where the registry can't be asked. That it is
not signed is remembered for some seconds, and only for clients with the same credentials. What is fetched for
this is bounded, is checked against its digest, and is not stored: nothing of it gets to a client.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from msgspec import Struct, field

from regproxy.config.signing_keys import SigningKey
from regproxy.core.errors import DigestMismatch, UpstreamError, UpstreamTimeout
from regproxy.core.lru import Bounded
from regproxy.core.single_flight import Flights
from regproxy.fill.origin_bodies import Fetcher
from regproxy.http.messages import NONE, Request
from regproxy.http.origin import Origin
from regproxy.policy.signatures import (
    BUNDLE_MAX,
    PAYLOAD_MAX,
    SignatureVerdict,
    verify_bundle,
    verify_payload,
)
from regproxy.policy.verdicts import STALE_ON
from regproxy.registry.signature_manifests import (
    LIST_MAX,
    REFERRERS_ACCEPT,
    SIGNATURE_ACCEPT,
    Referrer,
    SignatureLayer,
    referrers,
    referrers_tag,
    signature_layers,
    signature_tag,
)
from regproxy.registry.targets import is_digest, is_repository
from regproxy.upstream.fetch import Ask, Fetched

SIGNED_MAX: Final = 8192  # images that a worker remembers as signed
UNSIGNED_MAX: Final = 1024
UNSIGNED_SECONDS: Final = 10.0
CHECK_SECONDS: Final = 30.0  # for one image: several requests
FETCHES_MAX: Final = 64  # manifests and blobs that are fetched for one image, besides the two lists
_REASONS_MAX: Final = 4
_ANY: Final = b"*/*"

_Entry = TypeVar("_Entry")


class SignatureRecords(Protocol):
    """What is recorded of signed images: see cache.index.attestations."""

    def put_signed(self, host: str, port: int, repository: str, digest: str, key: str) -> None:
        """Record that an image is signed by the key with this fingerprint."""

    def signed(self, host: str, port: int, repository: str, digest: str, key: str) -> bool:
        """Return whether that was recorded; it is forgotten when the image is evicted."""


class _Unusable(Exception):
    """What was found is no signature that could be judged; the text says why."""


class _Search(Struct):
    """One image whose signatures are looked for. `repository`: as in cache keys, with any namespace.

    `fields`: the client's credentials. `fetched`: content by its digest; `left`: so much more may be.
    `reasons`: why the signatures found so far don't count.
    """

    origin: Origin
    repository: str
    digest: str
    keys: Sequence[SigningKey]
    fields: tuple[tuple[bytes, bytes], ...]
    left: int = FETCHES_MAX
    fetched: dict[str, bytes] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def request(self, rest: str, accept: bytes) -> Request:
        """Return the request for /v2/<repository>/<rest>."""
        name, mark, namespace = self.repository.partition("?")
        target = f"/v2/{name}/{rest}{mark}{namespace}"
        return Request("GET", target, 1, ((b"accept", accept), *self.fields), NONE, True, False)

    def say(self, reason: str) -> None:
        """Add a reason, if it is a new one."""
        if reason not in self.reasons and len(self.reasons) < _REASONS_MAX:
            self.reasons.append(reason)


class SignatureChecks:
    """The signatures that a worker knows of, and looks for."""

    def __init__(
        self,
        upstream: Fetcher,
        keys: Mapping[str, SigningKey],
        remembered: SignatureRecords,
        *,
        offline: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keys`: by the names that check() is told. `offline()`: no registry is asked."""
        self._upstream = upstream
        self._keys = keys
        self._remembered = remembered
        self._offline = offline
        self._clock = clock
        self._signed: Bounded[tuple[Origin, str, str, str], SigningKey] = Bounded(SIGNED_MAX)
        self._unsigned: Bounded[tuple[object, ...], tuple[SignatureVerdict, float]] = Bounded(UNSIGNED_MAX)
        self._flights: Flights[tuple[object, ...], SignatureVerdict] = Flights()

    def recall(self, origin: Origin, repository: str, digest: str, keys: tuple[str, ...]) -> bool:
        """Return whether an image is remembered as signed by one of these keys; nobody is asked."""
        return self._recall(origin, repository, digest, self._found(keys)) is not None

    async def check(
        self,
        origin: Origin,
        repository: str,
        digest: str,
        keys: tuple[str, ...],
        request: Request | None = None,
    ) -> SignatureVerdict:
        """Find out whether the manifest with this digest is signed by one of the keys of these names.

        `repository`: as in cache keys, with the namespace that a mirror is asked for (`Shared.repository`).
        `request`: of the client that wants the image. Its credentials are shown first, as they are for the
        image itself; then the proxy's own. Raises UpstreamError where the registry leaves the question open.
        """
        asked = self._found(keys)
        if not asked:
            return SignatureVerdict(False, "there is no key to check signatures by")
        if not is_digest(digest) or not is_repository(repository.partition("?")[0]):
            return SignatureVerdict(False, "signatures are looked for by SHA-256 digests alone")
        known = self._recall(origin, repository, digest, asked)
        if known is not None:
            return SignatureVerdict(True, f"signed by the key {known.name}", known.fingerprint)
        if self._offline():
            raise UpstreamError(f"{origin.host} is not asked for signatures (REGPROXY_OFFLINE=true)")
        search = _search(origin, repository, digest, asked, request)
        key = (origin, repository, digest, _mark(search), *(each.fingerprint for each in asked))
        verdict, until = self._unsigned.get(key) or (None, 0.0)
        if verdict is not None and self._clock() < until:
            return verdict
        return await self._flights.join(key, lambda: self._look(search, key))

    def close(self) -> None:
        """End what is under way."""
        self._flights.close()

    # --- what is remembered ------------------------------------------------------------------------------

    def _found(self, names: tuple[str, ...]) -> list[SigningKey]:
        return [self._keys[name] for name in names if name in self._keys]

    def _recall(
        self, origin: Origin, repository: str, digest: str, keys: Sequence[SigningKey]
    ) -> SigningKey | None:
        for key in keys:
            place = (origin, repository, digest, key.fingerprint)
            if self._signed.get(place) is not None:
                return key
            if self._remembered.signed(origin.host, origin.port, repository, digest, key.fingerprint):
                self._signed.put(place, key)
                return key
        return None

    def _note(self, search: _Search, key: tuple[object, ...], verdict: SignatureVerdict) -> None:
        origin, repository, digest = search.origin, search.repository, search.digest
        if not verdict.signed:
            self._unsigned.put(key, (verdict, self._clock() + UNSIGNED_SECONDS))
            return
        self._unsigned.drop(key)
        signer = next(each for each in search.keys if each.fingerprint == verdict.key)
        self._signed.put((origin, repository, digest, verdict.key), signer)
        self._remembered.put_signed(origin.host, origin.port, repository, digest, verdict.key)

    # --- what the registry has ---------------------------------------------------------------------------

    async def _look(self, search: _Search, key: tuple[object, ...]) -> SignatureVerdict:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                verdict = await self._judge(search)
        except TimeoutError:
            text = f"{search.origin.host}: no signatures within {CHECK_SECONDS:g} s"
            raise UpstreamTimeout(text) from None
        self._note(search, key, verdict)
        return verdict

    async def _judge(self, search: _Search) -> SignatureVerdict:
        """Judge the signatures of both kinds until one is right. Trouble counts only if none is."""
        trouble: UpstreamError | None = None
        for source in (self._under_tag, self._by_referrers):
            try:
                found = await source(search)
            except _Unusable as error:
                search.say(str(error))
            except UpstreamError as error:
                trouble = trouble or error
            else:
                if found is not None:
                    return found
        if trouble is not None:
            raise trouble
        names = ", ".join(key.name for key in search.keys)
        said = "; ".join(search.reasons) or "it has no signature"
        return SignatureVerdict(False, f"not signed by {names}: {said}")

    async def _under_tag(self, search: _Search) -> SignatureVerdict | None:
        """Judge the signatures under the image's `.sig` tag; None: none of them is right."""
        tag = signature_tag(search.digest)
        manifest = await self._list(search, f"manifests/{tag}", SIGNATURE_ACCEPT)
        return None if manifest is None else await self._of_manifest(search, manifest)

    async def _by_referrers(self, search: _Search) -> SignatureVerdict | None:
        """Judge the signatures among what refers to the image; None: none of them is right."""
        index = await self._list(search, f"referrers/{search.digest}", REFERRERS_ACCEPT)
        if index is None:
            # OCI distribution spec, "Referrers Tag Schema": for registries without that endpoint.
            index = await self._list(search, f"manifests/{referrers_tag(search.digest)}", REFERRERS_ACCEPT)
        for entry in _read(referrers, index) if index is not None else ():
            try:
                manifest = await self._by_digest(search, "manifests", entry, LIST_MAX, SIGNATURE_ACCEPT)
                found = await self._of_manifest(search, manifest)
            except _Unusable as error:
                search.say(str(error))
            else:
                if found is not None:
                    return found
        return None

    async def _of_manifest(self, search: _Search, manifest: bytes) -> SignatureVerdict | None:
        for layer in _read(signature_layers, manifest):
            limit = PAYLOAD_MAX if layer.signature else BUNDLE_MAX
            try:
                content = await self._by_digest(search, "blobs", layer, limit, _ANY)
            except _Unusable as error:
                search.say(str(error))
                continue
            if layer.signature:
                verdict = verify_payload(content, layer.signature, search.digest, search.keys)
            else:
                verdict = verify_bundle(content, search.digest, search.keys)
            if verdict.signed:
                return verdict
            search.say(verdict.reason)
            # Some milliseconds each with many keys: others get their turn in between.
            await asyncio.sleep(0)
        return None

    # --- requests ----------------------------------------------------------------------------------------

    async def _list(self, search: _Search, rest: str, accept: bytes) -> bytes | None:
        """Return a list that may change, None if the registry has none."""
        fetched = await self._fetch(search, search.request(rest, accept))
        status = fetched.response.status
        if status == 200:
            return await self._body(fetched, LIST_MAX)
        await self._drop(fetched)
        _raise_trouble(fetched, unknown=rest.startswith("referrers/"))
        if status in (401, 403):
            raise _Unusable(f"{search.origin.host} does not show its signatures ({status})")
        return None

    async def _by_digest(
        self, search: _Search, section: str, entry: Referrer | SignatureLayer, limit: int, accept: bytes
    ) -> bytes:
        """Return content whose digest has matched. Raises _Unusable, UpstreamError."""
        held = search.fetched.get(entry.digest)
        if held is not None:
            return held
        if entry.size > limit:
            raise _Unusable(f"a signature of {entry.size} bytes, more than {limit}")
        if search.left == 0:
            raise _Unusable(f"more than {FETCHES_MAX} signatures, of which the others are not looked at")
        search.left -= 1
        fetched = await self._fetch(search, search.request(f"{section}/{entry.digest}", accept))
        if fetched.response.status != 200:
            await self._drop(fetched)
            _raise_trouble(fetched)
            raise _Unusable(f"a signature that can't be had ({fetched.response.status})")
        body = await self._body(fetched, limit)
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != entry.digest:
            raise DigestMismatch(f"{fetched.origin.host}: a signature that is not what its digest names")
        search.fetched[entry.digest] = body
        return body

    async def _fetch(self, search: _Search, request: Request) -> Fetched:
        return await self._upstream.fetch(
            search.origin, request, "GET", Ask(own_account=True, patient=False, spare=False)
        )

    async def _body(self, fetched: Fetched, limit: int) -> bytes:
        try:
            body = await fetched.connection.read_small(fetched.response, limit)
        except BaseException:
            fetched.connection.abort()
            raise
        self._upstream.release(fetched.connection, fetched.response)
        return body

    async def _drop(self, fetched: Fetched) -> None:
        """Read an error's body, so that the connection can be reused."""
        try:
            await fetched.connection.read_small(fetched.response)
        except UpstreamError:
            fetched.connection.abort()
        except BaseException:
            fetched.connection.abort()
            raise
        else:
            self._upstream.release(fetched.connection, fetched.response)


def _search(
    origin: Origin, repository: str, digest: str, keys: Sequence[SigningKey], request: Request | None
) -> _Search:
    shown = request.all(b"authorization") if request is not None else []
    fields = ((b"authorization", shown[0]),) if len(shown) == 1 else ()
    return _Search(origin, repository, digest, keys, fields)


def _mark(search: _Search) -> bytes:
    """Return what stands for the credentials of a search in keys: they are not kept themselves."""
    return hashlib.sha256(b"".join(value for _, value in search.fields)).digest() if search.fields else b""


def _raise_trouble(fetched: Fetched, *, unknown: bool = False) -> None:
    """Raise UpstreamError for an answer that says nothing of what there is.

    `unknown`: the registry need not know what was asked for, and may say so by 501.
    """
    status = fetched.response.status
    if unknown and status == 501:
        return
    if status in STALE_ON or status == 408 or status >= 500 or status < 400:
        raise UpstreamError(f"{fetched.origin.host} answered {status} when asked for signatures")


def _read(parse: Callable[[bytes], list[_Entry]], body: bytes) -> list[_Entry]:
    try:
        return parse(body)
    except ValueError as error:
        raise _Unusable(f"signatures that can't be read: {error}") from None
