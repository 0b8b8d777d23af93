"""What paths, Accept lines and manifests mean."""

from __future__ import annotations

import json
import re
from itertools import permutations
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.core.errors import BadResponse
from regproxy.registry.accept import parse_accept
from regproxy.registry.error_bodies import error_body
from regproxy.registry.manifests import INDEX_TYPES, MANIFEST_MAX, MANIFEST_TYPES, check_manifest
from regproxy.registry.targets import Kind, Target, is_digest, parse_target

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"
SHA512 = f"sha512:{HEX}{HEX}"
UUID = "6b3c9a93-af5d-473f-a4ff-9710022185cd"
OTHER = Target(Kind.OTHER)
TOKEN = Target(Kind.TOKEN)

OCI = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"

TARGETS = [
    # What clients send.
    ("/v2/", Target(Kind.PING)),
    ("/v2", Target(Kind.PING)),
    ("/v2/?ns=docker.io", Target(Kind.PING)),
    ("/v2/library/nginx/manifests/1.25", Target(Kind.TAG, "library/nginx", "1.25")),
    (
        "/v2/library/nginx/manifests/1.25?ns=registry.example%3A5002",
        Target(Kind.TAG, "library/nginx", "1.25"),
    ),
    ("/v2/library/nginx/manifests/1.25?ns=docker.io", Target(Kind.TAG, "library/nginx", "1.25")),
    (f"/v2/library/nginx/manifests/{DIGEST}", Target(Kind.MANIFEST, "library/nginx", DIGEST)),
    (f"/v2/library/nginx/blobs/{DIGEST}?ns=docker.io", Target(Kind.BLOB, "library/nginx", DIGEST)),
    ("/v2/a/blobs/uploads/", Target(Kind.UPLOAD, "a")),
    (f"/v2/a/b/blobs/uploads/?mount={DIGEST}&from=c", Target(Kind.UPLOAD, "a/b")),
    (f"/v2/a/blobs/uploads/{UUID}?_state=Zm9v%2Fblobs&digest={DIGEST}", Target(Kind.UPLOAD, "a")),
    ("/token?account=u&client_id=docker&offline_token=true&service=registry.docker.io", TOKEN),
    ("/v2/token?scope=repository%3Aa%3Apull&service=gcr.io", TOKEN),
    ("/v2/auth?service=quay.io", TOKEN),
    ("/service/token?service=harbor-registry", TOKEN),
    ("/oauth2/token", TOKEN),
    ("/jwt/auth?client_id=docker", TOKEN),
    ("/token/?scope=x", TOKEN),
    ("/artifactory/api/docker/local/v2/token", TOKEN),
    ("/v1/repositories/a/images", Target(Kind.V1)),
    ("/v1", Target(Kind.V1)),
    ("/v1/_ping", Target(Kind.V1)),
    ("/v1/search?q=alpine&n=25", OTHER),
    ("/v1/search/x", Target(Kind.V1)),
    ("/v1.40/token", Target(Kind.V1)),
    ("/v2/_catalog?n=100", OTHER),
    ("/v2/a/tags/list", OTHER),
    (f"/v2/a/referrers/{DIGEST}?artifactType=x", OTHER),
    ("/", OTHER),
    ("/ca.crt", OTHER),
    ("/setup/systemd", OTHER),
    # Digests.
    (f"/v2/a/blobs/sha256:{HEX[:63]}", Target(Kind.BLOB_MUTABLE, "a")),
    (f"/v2/a/blobs/{DIGEST}0", Target(Kind.BLOB_MUTABLE, "a")),
    (f"/v2/a/blobs/sha256:{HEX.upper()}", Target(Kind.BLOB_MUTABLE, "a")),
    (f"/v2/a/blobs/SHA256:{HEX}", Target(Kind.BLOB_MUTABLE, "a")),
    (f"/v2/a/blobs/sha256:{HEX[:-1]}g", Target(Kind.BLOB_MUTABLE, "a")),
    (f"/v2/a/blobs/{DIGEST}/", Target(Kind.BLOB_MUTABLE, "a")),
    (f"/v2/a/blobs/{DIGEST}/x", Target(Kind.BLOB_MUTABLE, "a")),
    (f"/v2/a/blobs/{SHA512}", Target(Kind.BLOB_MUTABLE, "a")),
    ("/v2/a/blobs/sha256:", Target(Kind.BLOB_MUTABLE, "a")),
    ("/v2/a/blobs/x", Target(Kind.BLOB_MUTABLE, "a")),
    ("/v2/a/blobs/", Target(Kind.BLOB_MUTABLE, "a")),
    (f"/v2/a/manifests/sha256:{HEX[:63]}", OTHER),
    (f"/v2/a/manifests/sha256:{HEX.upper()}", OTHER),
    (f"/v2/a/manifests/{SHA512}", OTHER),
    ("/v2/a/manifests/sha256:", OTHER),
    (f"/v2/a/manifests/{DIGEST}/", OTHER),
    # Tags.
    ("/v2/a/manifests/_x.Y-9", Target(Kind.TAG, "a", "_x.Y-9")),
    ("/v2/a/manifests/" + "t" * 128, Target(Kind.TAG, "a", "t" * 128)),
    ("/v2/a/manifests/" + "t" * 129, OTHER),
    ("/v2/a/manifests/.x", OTHER),
    ("/v2/a/manifests/-x", OTHER),
    ("/v2/a/manifests/", OTHER),
    ("/v2/a/manifests", OTHER),
    ("/v2/a/manifests/x y", OTHER),
    ("/v2/a/manifests/x\n", OTHER),
    ("/v2/a/manifests/x/y", OTHER),
    ("/v2/a/manifests/ü", OTHER),
    ("/v2/a/manifests/uploads", Target(Kind.TAG, "a", "uploads")),
    ("/v2/a/manifests/token", Target(Kind.TAG, "a", "token")),
    # Repositories.
    ("/v2/a.b/c_d/e__f/g-h/i---j/0/manifests/x", Target(Kind.TAG, "a.b/c_d/e__f/g-h/i---j/0", "x")),
    ("/v2/" + "n" * 255 + "/manifests/x", Target(Kind.TAG, "n" * 255, "x")),
    ("/v2/" + "n" * 256 + "/manifests/x", OTHER),
    ("/v2/A/manifests/x", OTHER),
    (f"/v2/A/blobs/{DIGEST}", OTHER),
    (f"/v2/a___b/blobs/{DIGEST}", OTHER),
    (f"/v2/a..b/blobs/{DIGEST}", OTHER),
    (f"/v2/-a/blobs/{DIGEST}", OTHER),
    (f"/v2/a./blobs/{DIGEST}", OTHER),
    (f"/v2/a//b/blobs/{DIGEST}", OTHER),
    (f"/v2//blobs/{DIGEST}", OTHER),
    (f"/v2/blobs/{DIGEST}", OTHER),
    (f"/v2/a/../b/blobs/{DIGEST}", OTHER),
    (f"//v2/a/blobs/{DIGEST}", OTHER),
    (f"/V2/a/blobs/{DIGEST}", OTHER),
    (f"/x/v2/a/blobs/{DIGEST}", OTHER),
    ("/v2/A/blobs/uploads/", OTHER),
    # A repository may be called what the API is made of; the last one counts.
    (f"/v2/blobs/blobs/{DIGEST}", Target(Kind.BLOB, "blobs", DIGEST)),
    ("/v2/a/manifests/b/manifests/c", Target(Kind.TAG, "a/manifests/b", "c")),
    (f"/v2/a/blobs/uploads/blobs/{DIGEST}", Target(Kind.BLOB, "a/blobs/uploads", DIGEST)),
    (f"/v2/a/manifests/b/blobs/{DIGEST}", Target(Kind.BLOB, "a/manifests/b", DIGEST)),
    (f"/v2/v2/token/manifests/{DIGEST}", Target(Kind.MANIFEST, "v2/token", DIGEST)),
    ("/v2/a/blobs/uploads", Target(Kind.UPLOAD, "a")),
    # Escapes.
    (f"/v2/a/blobs/sha256%3A{HEX}", Target(Kind.BLOB, "a", DIGEST)),
    (f"/v2/a/blobs/sha256%3a{HEX}", Target(Kind.BLOB, "a", DIGEST)),
    ("/v2/%61/manifests/%78", Target(Kind.TAG, "a", "x")),
    ("/v2/a%2Fb/manifests/x", OTHER),
    ("/v2/a/manifests%2fx", OTHER),
    ("/v2/a/manifests/%2561", OTHER),
    ("/v2/a/manifests/x%00", OTHER),
    ("/v2/a/manifests/x%0A", OTHER),
    ("/v2/a/manifests/x%3Fy", OTHER),
    ("/v2/a/manifests/%C3%BC", OTHER),
    ("/v2/a/manifests/%FF", OTHER),
    ("/v2/a/manifests/%zz", OTHER),
    ("/%76%31/x", Target(Kind.V1)),
    ("/v2/x%0A/token", OTHER),
    # Token endpoints, and what only looks like one: a POST to it would be passed on.
    ("/token/x", OTHER),
    ("/tokens", OTHER),
    ("/v2/a/tags/token", OTHER),
    ("/v2/a/referrers/auth", OTHER),
    ("/v2/A/blobs/uploads/token", OTHER),
    ("/v2/a/blobs/uploads/token", Target(Kind.UPLOAD, "a")),
    ("/v2/a/blobs/token", Target(Kind.BLOB_MUTABLE, "a")),
    ("/v2/a/../token", OTHER),
    ("/v2/a/./token", OTHER),
    ("//token", OTHER),
    # Not paths.
    ("", OTHER),
    ("*", OTHER),
    ("reg.example:443", OTHER),
    ("x/token", OTHER),
    ("?x=/v2/", OTHER),
    ("/?x=/v2/a/manifests/x", OTHER),
    ("/v2/a/manifests/?x", OTHER),
]


@pytest.mark.parametrize("path, want", TARGETS, ids=lambda value: str(value)[:60])
def test_targets(path: str, want: Target) -> None:
    assert parse_target(path) == want
    assert parse_target(path) == want, "remembered"


COMPONENT = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,2})[a-z0-9]{1,3}){0,2}", fullmatch=True)
REPOSITORY = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", fullmatch=True)
QUERY = st.sampled_from(["", "?", "?ns=docker.io", "?ns=reg.example%3A5002", "?a=/v2/x/manifests/y"])


@given(REPOSITORY, TAG, QUERY)
def test_every_tag_is_found(repository: str, tag: str, query: str) -> None:
    want = Target(Kind.TAG, repository, tag)
    assert parse_target(f"/v2/{repository}/manifests/{tag}{query}") == want
    escaped = "".join(f"%{ord(letter):02X}" for letter in tag)
    assert parse_target(f"/v2/{repository}/manifests/{escaped}{query}") == want


@given(REPOSITORY, st.text("0123456789abcdef", min_size=64, max_size=64), QUERY)
def test_every_digest_is_found(repository: str, digits: str, query: str) -> None:
    digest = f"sha256:{digits}"
    for section, kind in (("blobs", Kind.BLOB), ("manifests", Kind.MANIFEST)):
        for reference in (digest, quote(digest)):
            path = f"/v2/{repository}/{section}/{reference}{query}"
            assert parse_target(path) == Target(kind, repository, digest)


PIECES = [
    "/",
    "/v2/",
    "a",
    "blobs",
    "manifests",
    "uploads",
    DIGEST,
    "%2F",
    "%2e",
    "..",
    "?",
    "token",
    "v1",
    "\n",
    "ü",
]


@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=10).map("".join))
def test_targets_are_consistent(path: str) -> None:
    target = parse_target(path)
    assert parse_target(path.partition("?")[0] + "?x=y") == target
    if target.kind in (Kind.BLOB, Kind.MANIFEST):
        assert is_digest(target.reference)
    elif target.kind is Kind.TAG:
        assert re.fullmatch(r"\w[\w.-]*", target.reference, re.ASCII)
    else:
        assert target.reference == ""
    in_repository = target.kind in (Kind.BLOB, Kind.MANIFEST, Kind.TAG, Kind.UPLOAD, Kind.BLOB_MUTABLE)
    assert bool(target.repository) == in_repository
    assert ".." not in target.repository


def test_long_paths_are_not_remembered() -> None:
    path = "/v2/" + "a/" * 500 + "manifests/x"
    assert parse_target(path) == OTHER


@pytest.mark.parametrize(
    "text, want",
    [
        (DIGEST, True),
        (f"{DIGEST}\n", False),
        (f" {DIGEST}", False),
        (DIGEST[:-1], False),
        (DIGEST.upper(), False),
        (HEX, False),
        (SHA512, False),
        ("sha256:" + "٣" * 64, False),
        ("", False),
    ],
)
def test_is_digest(text: str, want: bool) -> None:
    assert is_digest(text) is want


def test_error_body() -> None:
    assert json.loads(error_body("DENIED", 'no "push" für x')) == {
        "errors": [{"code": "DENIED", "message": 'no "push" für x'}]
    }
    assert json.loads(error_body("UNKNOWN", "m", {"host": "a"})) == {
        "errors": [{"code": "UNKNOWN", "message": "m", "detail": {"host": "a"}}]
    }
    assert error_body("A", "b") == b'{"errors":[{"code":"A","message":"b"}]}'


def test_media_types() -> None:
    assert {OCI_INDEX, DOCKER_LIST} == INDEX_TYPES
    assert {OCI, DOCKER, SCHEMA1, SIGNED, ARTIFACT} | INDEX_TYPES <= MANIFEST_TYPES


def manifest(**fields: object) -> bytes:
    """Return a manifest's body, schemaVersion 2, changed by `fields`; None takes one away."""
    document = {"schemaVersion": 2, "config": {"digest": DIGEST}, "layers": [{"digest": DIGEST}], **fields}
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def index(**fields: object) -> bytes:
    """Return an index's body, as `manifest`."""
    return manifest(**{"config": None, "layers": None, "manifests": [{"digest": DIGEST}], **fields})


GOOD = {
    "docker": (manifest(mediaType=DOCKER), DOCKER, DOCKER),
    "docker, charset": (manifest(mediaType=DOCKER), f"{DOCKER.upper()}; charset=utf-8", DOCKER),
    "oci with a type": (manifest(mediaType=OCI), OCI, OCI),
    "oci without a type": (manifest(), OCI, OCI),
    "oci index": (index(), OCI_INDEX, OCI_INDEX),
    "docker list": (index(mediaType=DOCKER_LIST), DOCKER_LIST, DOCKER_LIST),
    "empty index": (index(manifests=[]), OCI_INDEX, OCI_INDEX),
    "index, empty layers": (index(layers=[]), OCI_INDEX, OCI_INDEX),
    "said to be JSON": (manifest(mediaType=DOCKER), "application/json", DOCKER),
    "said to be JSON, no type": (manifest(), "application/json; charset=utf-8", OCI),
    "no Content-Type": (index(), "", OCI_INDEX),
    "octets": (index(mediaType=DOCKER_LIST), "application/octet-stream", DOCKER_LIST),
    "schema 1, signed": (manifest(schemaVersion=1, signatures=[{}], fsLayers=[]), SIGNED, SIGNED),
    "schema 1": (manifest(schemaVersion=1, fsLayers=[]), SCHEMA1, SCHEMA1),
    "schema 1 that names its sister": (manifest(schemaVersion=1, mediaType=SIGNED), SCHEMA1, SCHEMA1),
    "schema 1 as JSON": (manifest(schemaVersion=1), "application/json", SCHEMA1),
    "schema 1, signed, as JSON": (manifest(schemaVersion=1, signatures=[]), "application/json", SIGNED),
    "artifact": (manifest(schemaVersion=None, mediaType=ARTIFACT), ARTIFACT, ARTIFACT),
    "a type not known": (
        manifest(mediaType="application/vnd.x+json"),
        "application/vnd.x+json",
        "application/vnd.x+json",
    ),
    "blanks ahead": (b" \n" + manifest(), OCI, OCI),
}


@pytest.mark.parametrize("body, content_type, want", GOOD.values(), ids=GOOD)
def test_manifests(body: bytes, content_type: str, want: str) -> None:
    assert check_manifest(body, content_type) == want


BAD = {
    "HTML by type": (manifest(), "text/html; charset=utf-8", "HTML"),
    "HTML by content": (b"\n <!DOCTYPE html><html></html>", "application/json", "HTML"),
    "HTML sent as a manifest": (b"<html>Login</html>", DOCKER, "HTML"),
    "empty": (b"", OCI, "not JSON"),
    "cut": (manifest()[:-1], OCI, "not JSON"),
    "other bytes": (b"\x1f\x8b\x08\x00", OCI, "not JSON"),
    "UTF-16": (manifest().decode().encode("utf-16"), OCI, "not JSON"),
    "too deep": (b"[" * 200_000, OCI, "not JSON"),
    "a number too long": (b'{"schemaVersion": ' + b"9" * 5000 + b"}", OCI, "not JSON"),
    "a list": (b"[]", OCI, "not a JSON object"),
    "a string": (b'"x"', OCI, "not a JSON object"),
    "no schemaVersion": (manifest(schemaVersion=None), OCI, "schemaVersion"),
    "an error body": (error_body("DENIED", "no"), "application/json", "schemaVersion"),
    "schemaVersion 3": (manifest(schemaVersion=3), OCI, "schemaVersion"),
    "schemaVersion true": (manifest(schemaVersion=True), OCI, "schemaVersion"),
    "schemaVersion as text": (manifest(schemaVersion="2"), OCI, "schemaVersion"),
    "types that disagree": (manifest(mediaType=DOCKER), OCI, "sent as"),
    "index sent as manifest": (index(mediaType=OCI_INDEX), OCI, "sent as"),
    "schema 1 sent as schema 2": (manifest(schemaVersion=1), DOCKER, "sent as"),
    "schema 2 sent as schema 1": (manifest(), SIGNED, "sent as"),
    "mediaType not a text": (manifest(mediaType=["x"]), OCI, "mediaType"),
    "index without manifests": (manifest(), OCI_INDEX, "index"),
    "index with manifests not a list": (index(manifests={}), OCI_INDEX, "index"),
    "index with layers": (index(layers=[{}]), OCI_INDEX, "also a manifest"),
    "index with a config": (index(config={"x": 1}), OCI_INDEX, "also a manifest"),
    "manifest with manifests": (manifest(manifests=[{}]), OCI, "also an index"),
    "too large": (b" " * (MANIFEST_MAX + 1), OCI, "more than"),
}


@pytest.mark.parametrize("body, content_type, reason", BAD.values(), ids=BAD)
def test_bad_manifests(body: bytes, content_type: str, reason: str) -> None:
    with pytest.raises(BadResponse, match=reason):
        check_manifest(body, content_type)


def test_the_largest_manifest() -> None:
    body = manifest()
    assert check_manifest(body + b" " * (MANIFEST_MAX - len(body)), OCI) == OCI


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=4) | st.sampled_from([OCI, OCI_INDEX]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["schemaVersion", "mediaType", "manifests", "layers", "config", "signatures"]),
            inner,
        )
    ),
    max_leaves=8,
)


@given(
    st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["", "application/json", "x", *sorted(MANIFEST_TYPES)]) | st.text(max_size=10),
)
def test_manifests_raise_nothing_else(body: bytes, content_type: str) -> None:
    try:
        media_type = check_manifest(body, content_type)
    except BadResponse:
        return
    assert media_type
    if media_type in INDEX_TYPES:
        assert isinstance(json.loads(body)["manifests"], list)


# docker 20.10 and skopeo 1.9 send one line a type; docker shuffles them.
SKOPEO = [OCI, DOCKER, SIGNED, SCHEMA1, DOCKER_LIST, OCI_INDEX]
ACCEPTS = [
    # lines, named, accepted, not accepted
    ([], 0, [OCI, OCI_INDEX, "x/y"], []),
    ([""], 0, [OCI, OCI_INDEX], []),
    (SKOPEO, 15, SKOPEO, ["x/y", ARTIFACT]),
    ([", ".join(SKOPEO)], 15, SKOPEO, ["x/y"]),
    ([f"{OCI_INDEX}, */*"], 1, [OCI_INDEX, OCI, "x/y"], []),
    ([f"{DOCKER}, */*"], 8, [DOCKER, OCI_INDEX], []),
    (["*/*"], 0, [OCI, OCI_INDEX, "x/y"], []),
    ([DOCKER], 8, [DOCKER], [OCI, OCI_INDEX]),
    ([DOCKER_LIST], 2, [DOCKER_LIST], [OCI_INDEX]),
    (["application/*"], 0, [OCI, OCI_INDEX], ["text/html"]),
    ([f"{OCI};q=0.5, {DOCKER};q=0"], 4, [OCI], [DOCKER]),
    ([f"*/*, {OCI_INDEX};q=0"], 0, [OCI], [OCI_INDEX]),
    ([f"*/*, application/*;q=0.000, {OCI}"], 4, [OCI, "text/plain"], [DOCKER]),
    ([f"*/*;q=0, {OCI}"], 4, [OCI], [DOCKER]),
    ([f"{OCI};q=0"], 0, [], [OCI, DOCKER]),
    ([f"{OCI.upper()} ; Q = 0.001"], 4, [OCI], []),
    ([f"{OCI};charset=utf-8;q=0"], 0, [], [OCI]),
    ([f"{OCI};q="], 4, [OCI], []),
    ([f"nonsense, ,;, {OCI}"], 4, [OCI], [DOCKER]),
    ([f"{OCI};q=0, {OCI}"], 4, [OCI], [DOCKER]),
    (["nonsense"], 0, [OCI], []),
]


@pytest.mark.parametrize("sent, named, accepted, refused", ACCEPTS, ids=str)
def test_accept(sent: list[str], named: int, accepted: list[str], refused: list[str]) -> None:
    accept = parse_accept(line.encode() for line in sent)
    assert accept.named == named
    assert [media_type for media_type in accepted if not accept.accepts(media_type)] == []
    assert [media_type for media_type in refused if accept.accepts(media_type)] == []


def test_accept_has_no_order() -> None:
    shuffled = {parse_accept(line.encode() for line in order) for order in permutations(SKOPEO)}
    joined = parse_accept([b" ,".join(line.encode() for line in SKOPEO)])
    assert shuffled == {joined}
    assert joined.key == ",".join(sorted(SKOPEO))


def test_accept_key() -> None:
    keys = {parse_accept([line.encode()]).key for line in (OCI, DOCKER, f"{OCI};q=0", f"{OCI}, {DOCKER}", "")}
    assert len(keys) == 5


@given(st.lists(st.binary(max_size=30), max_size=3))
def test_accept_never_raises(sent: list[bytes]) -> None:
    accept = parse_accept(sent)
    assert accept == parse_accept(reversed(sent))
    assert hash(accept) == hash(parse_accept(reversed(sent)))
    assert accept.wanted.isdisjoint(accept.refused)
    assert isinstance(accept.accepts(OCI), bool)
