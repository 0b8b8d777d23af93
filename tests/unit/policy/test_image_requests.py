"""Which image a request is for."""

from __future__ import annotations

import pytest

from regproxy.policy.image_requests import ImagePlace, place_of
from regproxy.registry.targets import parse_target

DIGEST = "sha256:" + "a" * 64
PULL, PUSH = ImagePlace("team/app", False, False), ImagePlace("team/app", True, False)
ODD, UNKNOWN = ImagePlace("team/app", False, True), ImagePlace(None, False, True)
CASES: list[tuple[str, str, ImagePlace | None]] = [
    ("GET", "/v2/team/app/manifests/1", PULL),
    ("HEAD", f"/v2/team/app/manifests/{DIGEST}", PULL),
    ("GET", f"/v2/team/app/blobs/{DIGEST}", PULL),
    ("GET", "/v2/team/app/blobs/sha512:00", ODD),
    ("GET", "/v2/team/app/manifests/sha512:00", ODD),
    ("GET", "/v2/team/app/manifests/", ODD),
    ("GET", "/v2/team%2Fapp/manifests/1", UNKNOWN),
    ("GET", "/v2/team%252fapp/%256danifests/1", UNKNOWN),
    ("GET", "/v2/Team/app/manifests/1", UNKNOWN),
    ("GET", "/v2//team/app/manifests/1", UNKNOWN),
    ("GET", "/x/v2/team/app/MANIFESTS/1", UNKNOWN),
    ("GET", "/" + "%25" * 9 + "6danifests", UNKNOWN),
    ("GET", "/v2/", None),
    ("GET", "/token?scope=manifests", None),
    ("GET", "/v2/team/app/tags/list", None),
    ("GET", "/v2/blobs/app/tags/list?n=1", None),
    ("GET", f"/v2/team/app/referrers/{DIGEST}", None),
    ("GET", "/v2/team/app/manifests/x/../tags/list", UNKNOWN),
    ("GET", "/v2/team/app/blobs/uploads/1", None),
    ("GET", "/v2/team/blobs/uploads/manifests/sha512:00", ImagePlace("team/blobs/uploads", False, True)),
    ("GET", "/v2/team/blobs/uploads/blobs/sha512:00", ImagePlace("team/blobs/uploads", False, True)),
    ("PUT", "/v2/team/blobs/uploads/manifests/sha512:00", ImagePlace("team/blobs/uploads", True, True)),
    ("GET", "/v2/team/blobs/uploads/x/manifests/sha512:00", ImagePlace("team/blobs/uploads/x", False, True)),
    ("GET", "/v2/ok/blobs/uploads/../../../team/app/manifests/1", UNKNOWN),
    ("GET", "/v2/ok/blobs/uploads/%2e%2e/%2e%2e/%2e%2e/team/app/manifests/1", UNKNOWN),
    ("GET", "/v2/ok/blobs/../../team/app/manifests/1", UNKNOWN),
    ("GET", "/v2/team/app/manifests;x/token", UNKNOWN),
    ("PUT", "/v2/ok/blobs/uploads/../../../team/app/manifests/1", ImagePlace(None, True, True)),
    ("PUT", "/v2/team/app/blobs/uploads/0f3a-_=.1?digest=x", PUSH),
    ("PUT", "/v2/team/app/manifests/1", PUSH),
    ("DELETE", f"/v2/team/app/blobs/{DIGEST}", PUSH),
    ("POST", "/v2/team/app/blobs/uploads/", PUSH),
    ("PATCH", "/v2/team%2Fapp/blobs/uploads/1", ImagePlace(None, True, True)),
    ("OPTIONS", "/v2/team/app/manifests/1", None),
    ("POST", "/token", None),
]


@pytest.mark.parametrize("method, path, want", CASES, ids=lambda value: str(value)[:60])
def test_place_of(method: str, path: str, want: ImagePlace | None) -> None:
    assert place_of(method, parse_target(path), path) == want
