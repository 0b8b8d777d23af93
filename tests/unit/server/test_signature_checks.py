"""Looking for signatures at a registry: where, how much, by whose credentials, and what is remembered."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from regproxy.core.errors import BadResponse, DigestMismatch, UpstreamError
from regproxy.server.signature_checks import FETCHES_MAX, UNSIGNED_SECONDS
from tests.support.origin import Answer, Origin, Seen
from tests.support.signature_asker import SignatureAsker
from tests.support.signatures import (
    BUNDLE,
    MANIFEST,
    SIGNATURE_ARTIFACT,
    Signer,
    Stored,
    bundle_of,
    descriptor,
    digest_of,
    index_of,
    payload_of,
    statement_of,
)
from tests.support.trust import Trust

MINE, THEIRS = Signer.new(), Signer.new()
KEYS = {"release": MINE.key("release"), "other": THEIRS.key("other")}
DIGEST, OTHER = digest_of(b"an image"), digest_of(b"another one")
APP = "/v2/lib/app"
TAG = f"{APP}/manifests/{DIGEST.replace(':', '-')}"
REFERRERS = f"{APP}/referrers/{DIGEST}"
HEADERS = {"Content-Type": MANIFEST}


@pytest.fixture
def origin(start_origin: Callable[..., Origin]) -> Origin:
    return start_origin("reg.test")


@pytest.fixture
def asker(stack: ExitStack, tmp_path: Path, trust: Trust, origin: Origin) -> SignatureAsker:
    return stack.enter_context(SignatureAsker(tmp_path / "cache", trust, origin, KEYS))


def publish(origin: Origin, stored: Stored) -> None:
    """Have a registry serve this."""
    for digest, body in stored.blobs.items():
        origin.on(f"{APP}/blobs/{digest}", Answer(body))
    for name, body in stored.manifests.items():
        origin.on(f"{APP}/manifests/{name}", Answer(body, headers=HEADERS))


def asked(origin: Origin) -> int:
    return len(origin.requests)


class TestWhere:
    def test_under_the_tag(self, origin: Origin, asker: SignatureAsker) -> None:
        stored = Stored()
        stored.sign_under_tag(DIGEST, [THEIRS, MINE])
        publish(origin, stored)
        assert asker.check("lib/app", DIGEST).reason == "signed by the key release"
        # One payload, of which there are two signatures.
        assert [seen.path.rpartition("/")[0] for seen in origin.requests] == [
            f"{APP}/manifests",
            f"{APP}/blobs",
        ]

    def test_by_the_tag_of_referrers(self, origin: Origin, asker: SignatureAsker) -> None:
        stored = Stored()
        stored.sign_by_bundles(DIGEST, [THEIRS, MINE])
        publish(origin, stored)
        assert asker.check("lib/app", DIGEST).signed
        assert [seen.path for seen in origin.requests[:3]] == [f"{TAG}.sig", REFERRERS, TAG]

    def test_by_referrers(self, origin: Origin, asker: SignatureAsker) -> None:
        stored = Stored()
        index = stored.sign_by_bundles(DIGEST, [MINE], at="nowhere")
        publish(origin, stored)
        origin.on(
            REFERRERS, Answer(index, headers={"Content-Type": "application/vnd.oci.image.index.v1+json"})
        )
        assert asker.check("lib/app", DIGEST).signed
        assert not origin.hits[TAG]

    def test_payloads_by_referrers(self, origin: Origin, asker: SignatureAsker) -> None:
        """As cosign 2 does with --registry-referrers-mode=oci-1-1."""
        stored, payload = Stored(), payload_of(DIGEST)
        entry = stored.add(stored.layer(payload, MINE.sign(payload)), kind=SIGNATURE_ARTIFACT, subject=DIGEST)
        stored.manifests[DIGEST.replace(":", "-")] = index_of(entry)
        publish(origin, stored)
        assert asker.check("lib/app", DIGEST).signed

    @pytest.mark.parametrize("status", [400, 404, 405, 501])
    def test_registries_without_referrers(self, origin: Origin, asker: SignatureAsker, status: int) -> None:
        stored = Stored()
        stored.sign_by_bundles(DIGEST, [MINE])
        publish(origin, stored)
        origin.on(REFERRERS, Answer(b"no", status))
        assert asker.check("lib/app", DIGEST).signed

    def test_what_is_no_signature_is_not_fetched(self, origin: Origin, asker: SignatureAsker) -> None:
        stored = Stored()
        sbom = stored.add(stored.layer(b"sbom"), kind="application/spdx+json")
        about = {"dev.sigstore.bundle.predicateType": "https://cyclonedx.org/bom"}
        attested = stored.add(stored.layer(b"{}"), kind=BUNDLE) | {"annotations": about}
        stored.manifests[DIGEST.replace(":", "-")] = index_of(sbom, attested)
        publish(origin, stored)
        verdict = asker.check("lib/app", DIGEST)
        assert verdict.reason == "not signed by release: it has no signature"
        assert asked(origin) == 3

    def test_attestations_that_only_their_manifests_tell_of(
        self, origin: Origin, asker: SignatureAsker
    ) -> None:
        """As in the lists that cosign makes at registries without the endpoint."""
        stored = Stored()
        notes = {"dev.sigstore.bundle.predicateType": "https://cyclonedx.org/bom"}
        bom = stored.layer(MINE.bundle(DIGEST) + b" ")
        stored.manifests[DIGEST.replace(":", "-")] = index_of(stored.add(bom, kind=BUNDLE, notes=notes))
        publish(origin, stored)
        assert not asker.check("lib/app", DIGEST).signed
        assert not origin.hits[f"{APP}/blobs/{bom['digest']}"]

    def test_none(self, origin: Origin, asker: SignatureAsker) -> None:
        verdict = asker.check("lib/app", DIGEST)
        assert (verdict.signed, verdict.reason) == (False, "not signed by release: it has no signature")


class TestWhoseKey:
    @pytest.mark.parametrize(
        "keys, want",
        [(("release",), True), (("other", "release"), True), (("other",), False), (("lost",), False)],
    )
    def test_keys(self, origin: Origin, asker: SignatureAsker, keys: tuple[str, ...], want: bool) -> None:
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        publish(origin, stored)
        assert asker.check("lib/app", DIGEST, *keys).signed == want

    def test_one_key_does_not_stand_for_another(self, origin: Origin, asker: SignatureAsker) -> None:
        """What is remembered of one key says nothing of others."""
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        publish(origin, stored)
        assert asker.check("lib/app", DIGEST, "release").signed
        assert not asker.check("lib/app", DIGEST, "other").signed
        assert asker.checks.recall(asker.origin, "lib/app", DIGEST, ("other", "release"))
        assert not asker.checks.recall(asker.origin, "lib/app", DIGEST, ("other",))

    def test_a_signature_of_another_image(self, origin: Origin, asker: SignatureAsker) -> None:
        """Put under this image's tag by whoever may push there."""
        stored, payload, statement = Stored(), payload_of(OTHER), statement_of(OTHER)
        stored.add(
            stored.layer(payload, MINE.sign(payload)),
            stored.layer(bundle_of(dsseEnvelope=MINE.envelope(statement))),
            at=f"{DIGEST.replace(':', '-')}.sig",
        )
        publish(origin, stored)
        verdict = asker.check("lib/app", DIGEST)
        assert (verdict.signed, verdict.reason) == (
            False,
            "not signed by release: a signature of another image",
        )


class TestBounds:
    def test_layers(self, origin: Origin, asker: SignatureAsker) -> None:
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE] * 129)
        publish(origin, stored)
        assert "129 layers, more than 128" in asker.check("lib/app", DIGEST).reason

    def test_fetches(self, origin: Origin, asker: SignatureAsker) -> None:
        stored = Stored()
        signers = [THEIRS] * FETCHES_MAX + [MINE]
        layers = [stored.layer(payload_of(DIGEST, note=n), "AAAA") for n, _ in enumerate(signers)]
        stored.add(*layers, at=f"{DIGEST.replace(':', '-')}.sig")
        publish(origin, stored)
        verdict = asker.check("lib/app", DIGEST)
        assert not verdict.signed
        assert f"more than {FETCHES_MAX} signatures" in verdict.reason
        assert asked(origin) <= FETCHES_MAX + 3

    def test_sizes_that_are_declared(self, origin: Origin, asker: SignatureAsker) -> None:
        large = {**descriptor(BUNDLE, b"x"), "size": 1 << 40}
        stored = Stored()
        stored.add(large, stored.layer(MINE.bundle(DIGEST)), at=f"{DIGEST.replace(':', '-')}.sig")
        publish(origin, stored)
        assert asker.check("lib/app", DIGEST).signed
        assert not origin.hits[f"{APP}/blobs/{large['digest']}"]

    @pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
    def test_sizes_that_are_not(self, origin: Origin, asker: SignatureAsker, framing: str) -> None:
        """Reading ends at the limit: the rest, which never comes, is not waited for."""
        body, never = b" " * 5_000_000, threading.Event()
        answer = Answer(body, framing=framing, hold_at=2_000_000, hold=never)  # type: ignore[arg-type]
        origin.on(f"{TAG}.sig", answer)
        with pytest.raises(BadResponse):
            asker.check("lib/app", DIGEST)
        never.set()

    def test_garbage(self, origin: Origin, asker: SignatureAsker) -> None:
        origin.on(f"{TAG}.sig", Answer(b"<html>"))
        origin.on(REFERRERS, Answer(b'{"manifests": [{}]}'))
        reason = asker.check("lib/app", DIGEST).reason
        assert "no JSON" in reason
        assert "without a digest" in reason

    def test_content_that_is_not_its_digest(self, origin: Origin, asker: SignatureAsker) -> None:
        """The registry is at fault: nothing is known of the image."""
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        stored.blobs = {digest: body + b" " for digest, body in stored.blobs.items()}
        publish(origin, stored)
        with pytest.raises(DigestMismatch):
            asker.check("lib/app", DIGEST)

    def test_what_was_removed(self, origin: Origin, asker: SignatureAsker) -> None:
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        stored.blobs = {}
        publish(origin, stored)
        assert "can't be had (404)" in asker.check("lib/app", DIGEST).reason

    @pytest.mark.parametrize("digest", ["sha512:" + "0" * 128, "v1", "sha256:" + "0" * 63, "sha256:../x"])
    def test_digests(self, origin: Origin, asker: SignatureAsker, digest: str) -> None:
        assert not asker.check("lib/app", digest).signed
        assert asked(origin) == 0


class TestTrouble:
    @pytest.mark.parametrize("status", [408, 429, 500, 503])
    @pytest.mark.parametrize("path", [f"{TAG}.sig", REFERRERS, TAG])
    def test_is_no_verdict(self, origin: Origin, asker: SignatureAsker, path: str, status: int) -> None:
        origin.on(path, Answer(b"", status))
        with pytest.raises(UpstreamError):
            asker.check("lib/app", DIGEST)

    def test_does_not_matter_where_another_signature_is_right(
        self, origin: Origin, asker: SignatureAsker
    ) -> None:
        stored = Stored()
        stored.sign_by_bundles(DIGEST, [MINE])
        publish(origin, stored)
        origin.on(f"{TAG}.sig", Answer(b"", 500))
        assert asker.check("lib/app", DIGEST).signed

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refusal_is_a_verdict(self, origin: Origin, asker: SignatureAsker, status: int) -> None:
        origin.on(f"{TAG}.sig", Answer(b"", status))
        verdict = asker.check("lib/app", DIGEST)
        assert not verdict.signed
        assert f"does not show its signatures ({status})" in verdict.reason

    def test_what_is_remembered_counts(
        self, stack: ExitStack, tmp_path: Path, trust: Trust, origin: Origin
    ) -> None:
        """In this worker, in another one, and where no registry is to be asked."""
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        publish(origin, stored)
        root = tmp_path / "cache"
        with SignatureAsker(root, trust, origin, KEYS) as first:
            assert first.check("lib/app", DIGEST).signed
            count = asked(origin)
            origin.close()
            assert first.check("lib/app", DIGEST).signed
        with SignatureAsker(root, trust, origin, KEYS, REGPROXY_OFFLINE="true") as later:
            assert later.check("lib/app", DIGEST).signed
            with pytest.raises(UpstreamError, match="OFFLINE"):
                later.check("lib/app", OTHER)
            with pytest.raises(UpstreamError, match="OFFLINE"):
                later.check("lib/else", DIGEST)
        assert asked(origin) == count

    def test_another_key_of_the_same_name(self, tmp_path: Path, trust: Trust, origin: Origin) -> None:
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        publish(origin, stored)
        with SignatureAsker(tmp_path, trust, origin, KEYS) as first:
            assert first.check("lib/app", DIGEST).signed
        with SignatureAsker(tmp_path, trust, origin, {"release": THEIRS.key()}) as later:
            assert not later.check("lib/app", DIGEST).signed


class TestWhatIsRemembered:
    def test_that_there_is_none_for_some_seconds(self, origin: Origin, asker: SignatureAsker) -> None:
        assert not asker.check("lib/app", DIGEST).signed
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        publish(origin, stored)
        count = asked(origin)
        assert not asker.check("lib/app", DIGEST).signed
        assert asked(origin) == count
        asker.now += UNSIGNED_SECONDS
        assert asker.check("lib/app", DIGEST).signed

    def test_a_signature_that_was_removed(self, origin: Origin, asker: SignatureAsker) -> None:
        """It was made: that can't be undone but by taking the key out of the rules."""
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        publish(origin, stored)
        assert asker.check("lib/app", DIGEST).signed
        origin.forget()
        asker.now += 1e6
        assert asker.check("lib/app", DIGEST).signed
        assert asked(origin) == 0

    def test_one_search_for_all_who_ask_at_once(self, origin: Origin, asker: SignatureAsker) -> None:
        stored, go = Stored(), threading.Event()
        stored.sign_under_tag(DIGEST, [MINE])
        publish(origin, stored)
        body = stored.manifests[f"{DIGEST.replace(':', '-')}.sig"]
        origin.on(f"{TAG}.sig", Answer(body, hold_at=0, hold=go))

        async def all_of_them() -> list[bool]:
            tasks = [asyncio.ensure_future(asker.ask("lib/app", DIGEST)) for _ in range(20)]
            left = asyncio.ensure_future(asker.ask("lib/app", DIGEST))
            while not origin.hits[f"{TAG}.sig"]:
                await asyncio.sleep(0)
            left.cancel()
            go.set()
            return [verdict.signed for verdict in await asyncio.gather(*tasks)]

        assert asker.loop.run_until_complete(all_of_them()) == [True] * 20
        assert origin.hits[f"{TAG}.sig"] == 1


class TestCredentials:
    @pytest.fixture
    def private(self, origin: Origin) -> Origin:
        """A registry that shows signatures to those with a token alone."""
        stored = Stored()
        stored.sign_under_tag(DIGEST, [MINE])
        publish(origin, stored)
        body = stored.manifests[f"{DIGEST.replace(':', '-')}.sig"]

        def serve(seen: Seen) -> Answer:
            return Answer(body) if seen.get("Authorization") == "Bearer mine" else Answer(b"", 401)

        origin.on(f"{TAG}.sig", serve)
        return origin

    def test_the_clients_own_are_shown(self, private: Origin, asker: SignatureAsker) -> None:
        assert not asker.check("lib/app", DIGEST).signed
        assert not asker.check("lib/app", DIGEST, authorization="Bearer theirs").signed
        assert asker.check("lib/app", DIGEST, authorization="Bearer mine").signed

    def test_what_one_may_not_see_says_nothing_of_another(
        self, private: Origin, asker: SignatureAsker
    ) -> None:
        """A refusal is remembered for those with the same credentials; a signature is one for everybody."""
        assert not asker.check("lib/app", DIGEST, authorization="Bearer theirs").signed
        assert asker.check("lib/app", DIGEST, authorization="Bearer mine").signed
        assert asker.check("lib/app", DIGEST).signed

    def test_they_go_to_this_repository_alone(self, private: Origin, asker: SignatureAsker) -> None:
        assert asker.check("lib/app", DIGEST, authorization="Bearer mine").signed
        assert {seen.path.startswith(f"{APP}/") for seen in private.requests} == {True}


class TestTokens:
    """A registry whose tokens are for one repository each, also for lists of referrers."""

    REPOSITORIES = ("lib/app", "lib/else")

    @pytest.fixture
    def guarded(self, origin: Origin) -> Origin:
        stored = Stored()
        index = stored.sign_by_bundles(DIGEST, [MINE], at="nowhere")

        def token(seen: Seen) -> Answer:
            scope = parse_qs(seen.target.partition("?")[2]).get("scope", ["none"])[0]
            return Answer(json.dumps({"token": scope.replace(":", "_").replace("/", "_")}).encode())

        def serve(repository: str) -> Callable[[Seen], Answer]:
            def answer(seen: Seen) -> Answer:
                scope = f"repository:{repository}:pull"
                if seen.get("Authorization") != f"Bearer repository_{repository.replace('/', '_')}_pull":
                    realm = f'Bearer realm="{origin.url}/token",service="reg",scope="{scope}"'
                    return Answer(b"", 401, {"WWW-Authenticate": realm})
                if "/referrers/" in seen.path:
                    return Answer(index)
                section, _, name = seen.path.removeprefix(f"/v2/{repository}/").partition("/")
                body = (stored.blobs if section == "blobs" else stored.manifests).get(name)
                return Answer(b"", 404) if body is None else Answer(body)

            return answer

        origin.on("/token", token)
        for repository in self.REPOSITORIES:
            origin.on(f"/v2/{repository}/*", serve(repository))
        return origin

    def test_are_of_the_repository(self, guarded: Origin, asker: SignatureAsker) -> None:
        for repository in self.REPOSITORIES:
            assert asker.check(repository, DIGEST).signed
        # Only the first request of each repository is refused: the one for the tag.
        lists = [seen for seen in guarded.requests if "/referrers/" in seen.path]
        assert len(lists) == len(self.REPOSITORIES)

    def test_of_several_at_once(self, guarded: Origin, asker: SignatureAsker) -> None:
        async def both() -> list[bool]:
            found = [asker.ask(repository, DIGEST) for repository in self.REPOSITORIES]
            return [verdict.signed for verdict in await asyncio.gather(*found)]

        assert asker.loop.run_until_complete(both()) == [True, True]


def test_namespaces(origin: Origin, asker: SignatureAsker) -> None:
    """What a mirror is asked for on another registry's behalf is another repository."""
    stored = Stored()
    stored.sign_under_tag(DIGEST, [MINE])
    publish(origin, stored)
    assert asker.check("lib/app?ns=docker.io", DIGEST).signed
    assert {seen.target.partition("?")[2] for seen in origin.requests} == {"ns=docker.io"}
    assert not asker.checks.recall(asker.origin, "lib/app", DIGEST, ("release",))
