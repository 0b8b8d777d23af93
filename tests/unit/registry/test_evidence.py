"""What an answer to HEAD shows of content."""

from __future__ import annotations

import pytest

from regproxy.http.messages import NONE, Response
from regproxy.registry.evidence import Evidence, evidence
from regproxy.registry.targets import Kind, Target

D, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
OCI = "application/vnd.oci.image.manifest.v1+json"
BLOB, MANIFEST, TAG = (
    Target(kind, "app", reference)
    for kind, reference in ((Kind.BLOB, D), (Kind.MANIFEST, D), (Kind.TAG, "1"))
)
CLEAR, WEAK, NO = Evidence.CLEAR, Evidence.WEAK, Evidence.NONE

# (fields, {target: (what it shows where the content is not stored, where it has 5 bytes here)})
ROWS: list[tuple[dict[str, str], dict[Target, tuple[Evidence, Evidence]]]] = [
    ({"docker-content-digest": D}, {BLOB: (CLEAR, CLEAR), MANIFEST: (CLEAR, CLEAR), TAG: (CLEAR, CLEAR)}),
    ({"docker-content-digest": OTHER}, {BLOB: (NO, NO), MANIFEST: (NO, NO), TAG: (CLEAR, CLEAR)}),
    # A CDN.
    ({"content-length": "5"}, {BLOB: (WEAK, CLEAR), MANIFEST: (NO, CLEAR), TAG: (NO, NO)}),
    (
        {"content-length": "5", "content-type": "application/octet-stream"},
        {BLOB: (WEAK, CLEAR), MANIFEST: (NO, CLEAR), TAG: (NO, NO)},
    ),
    ({"content-length": "6"}, {BLOB: (WEAK, NO), MANIFEST: (NO, NO), TAG: (NO, NO)}),
    # An old registry.
    (
        {"content-type": OCI + "; charset=utf-8"},
        {BLOB: (NO, NO), MANIFEST: (CLEAR, CLEAR), TAG: (CLEAR, CLEAR)},
    ),
    # A page to log in at, even one of the same length.
    (
        {"content-length": "5", "content-type": "Text/HTML; charset=utf-8"},
        {BLOB: (NO, NO), MANIFEST: (NO, NO), TAG: (NO, NO)},
    ),
    ({}, {BLOB: (NO, NO), MANIFEST: (NO, NO), TAG: (NO, NO)}),
    ({"docker-content-digest": "sha512:" + "a" * 128}, {BLOB: (NO, NO), MANIFEST: (NO, NO), TAG: (NO, NO)}),
]


@pytest.mark.parametrize(("fields", "shows"), ROWS)
def test_what_it_shows(fields: dict[str, str], shows: dict[Target, tuple[Evidence, Evidence]]) -> None:
    headers = tuple((name.encode(), value.encode()) for name, value in fields.items())
    response = Response(200, b"", 1, headers, NONE, True)
    for target, (unknown, known) in shows.items():
        assert evidence(target, response, None) is unknown, target.kind
        assert evidence(target, response, 5) is known, target.kind
