"""Policy: what a request and an origin's answer come to, from values alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.cache.index.index import TagRow
from regproxy.config.sources.assembly import load
from regproxy.policy.plans import Action, Policy
from regproxy.policy.variants import choose_variant
from regproxy.policy.verdicts import REDIRECTS, STALE_ON, Verdict, after_head
from regproxy.registry.accept import Accept, parse_accept
from regproxy.registry.manifests import MANIFEST_TYPES
from regproxy.registry.targets import Kind, parse_target

DIGEST = "sha256:" + "ab" * 32
OTHER_DIGEST = "sha256:" + "cd" * 32
BLOB = f"/v2/team/app/blobs/{DIGEST}"
MANIFEST = f"/v2/team/app/manifests/{DIGEST}"
TAG = "/v2/team/app/manifests/latest"

OCI = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def policy(**env: str) -> Policy:
    return Policy(load(env))


def accept(*values: str) -> Accept:
    return parse_accept(value.encode() for value in values)


PLANS = [
    # method, path, held, want: no tag among these
    ("GET", BLOB, False, Action.FETCH, "blob-by-digest"),
    ("GET", BLOB, True, Action.SERVE, "blob-by-digest"),
    ("HEAD", BLOB, False, Action.HEAD, "blob-by-digest"),
    ("HEAD", BLOB, True, Action.SERVE, "blob-by-digest"),
    ("GET", MANIFEST, False, Action.FETCH, "manifest-by-digest"),
    ("GET", MANIFEST, True, Action.SERVE, "manifest-by-digest"),
    ("HEAD", MANIFEST, False, Action.HEAD, "manifest-by-digest"),
    ("HEAD", MANIFEST, True, Action.SERVE, "manifest-by-digest"),
    ("GET", "/v2/", False, Action.PASS, "ping"),
    ("GET", "/v2/team/app/tags/list", False, Action.PASS, "other"),
    ("GET", f"/v2/team/app/referrers/{DIGEST}", False, Action.PASS, "other"),
    ("GET", "/v2/team/app/blobs/md5:00", False, Action.PASS, "blob-mutable"),
    ("GET", "/v2/team/app/blobs/uploads/1", False, Action.PASS, "upload"),
    ("GET", "/token?service=x", False, Action.PASS, "token"),
    ("GET", "/elsewhere", False, Action.PASS, "other"),
    ("GET", "/v1/_ping", False, Action.REFUSE, "v1"),
    ("HEAD", "/v1/_ping", False, Action.REFUSE, "v1"),
    ("GET", "/v1/search?q=alpine&n=25", False, Action.PASS, "other"),
    ("GET", "/v1/searches", False, Action.REFUSE, "v1"),
]


@pytest.mark.parametrize("method, path, held, action, kind", PLANS, ids=str)
@pytest.mark.parametrize("cached", ["true", "false"])
def test_plan_of_a_read(cached: str, method: str, path: str, held: bool, action: Action, kind: str) -> None:
    plan = policy(ENABLE_MANIFEST_CACHE=cached).plan(method, parse_target(path), held, None)
    assert (plan.action, plan.kind) == (action, kind)


MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

TAG_PLANS = [
    # tag, age in seconds (None: not held), fresh
    ("stable-1", None, False, "manifest-primary"),
    ("stable-1", 0.0, True, "manifest-primary"),
    ("stable-1", 10 * MINUTE - 1, True, "manifest-primary"),
    ("stable-1", 10 * MINUTE, False, "manifest-primary"),
    ("testing", 0.0, True, "manifest-primary"),  # not anchored at its end
    ("Stable", 0.0, True, "manifest-default"),  # case matters
    ("unstable", 0.0, True, "manifest-default"),  # anchored at its start
    ("v1.2.3", 60 * DAY - 1, True, "manifest-secondary"),
    ("v1.2.3", 60 * DAY, False, "manifest-secondary"),
    ("latest", HOUR - 1, True, "manifest-default"),
    ("latest", HOUR, False, "manifest-default"),
    # a clock that was put back: not trusted
    ("latest", -1.0, False, "manifest-default"),
]


@pytest.mark.parametrize("tag, age, fresh, kind", TAG_PLANS, ids=str)
@pytest.mark.parametrize("method, asked", [("GET", Action.FETCH), ("HEAD", Action.HEAD)], ids=str)
def test_plan_of_a_tag(
    method: str, asked: Action, tag: str, age: float | None, fresh: bool, kind: str
) -> None:
    target, held = parse_target(f"/v2/team/app/manifests/{tag}"), age is not None
    plan = policy(ENABLE_MANIFEST_CACHE="true").plan(method, target, held, age)
    assert (plan.action, plan.kind) == (Action.SERVE if fresh else asked, kind)
    plan = policy(ENABLE_MANIFEST_CACHE="false").plan(method, target, held, age)
    assert (plan.action, plan.kind) == (asked, "manifest-default-disabled")


SWR = {"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_SWR_PRIMARY": "1m", "REGPROXY_SWR_DEFAULT": "1d"}
RENEWALS = [
    # tag, age, how many times longer tags are fresh, want
    ("stable", 10 * MINUTE, 1.0, Action.RENEW),
    ("stable", 11 * MINUTE - 1, 1.0, Action.RENEW),
    ("stable", 11 * MINUTE, 1.0, Action.FETCH),
    ("stable", 20 * MINUTE - 1, 2.0, Action.SERVE),
    ("stable", 20 * MINUTE, 2.0, Action.RENEW),
    ("stable", 21 * MINUTE, 2.0, Action.FETCH),
    ("v1.2.3", 60 * DAY, 1.0, Action.FETCH),  # of a tier that has none
    ("latest", HOUR + DAY - 1, 1.0, Action.RENEW),
    ("latest", HOUR + DAY, 1.0, Action.FETCH),
    ("latest", -1.0, 1.0, Action.FETCH),
    ("latest", math.inf, 1.0, Action.FETCH),  # the origin has said something else since
]


@pytest.mark.parametrize("tag, age, stretch, want", RENEWALS, ids=str)
def test_stale_while_revalidated(tag: str, age: float, stretch: float, want: Action) -> None:
    target = parse_target(f"/v2/team/app/manifests/{tag}")
    assert policy(**SWR).plan("GET", target, True, age, stretch=stretch).action is want
    assert policy(**SWR).plan("GET", target, False, age, stretch=stretch).action is Action.FETCH
    off = policy(**SWR | {"ENABLE_MANIFEST_CACHE": "false"})
    assert off.plan("GET", target, True, age, stretch=stretch).action is Action.FETCH


STAND_INS = [
    # environment, age of a copy of `latest`, whether it is served while the origin is in trouble
    ({}, 0.0, True),
    ({}, 365 * DAY - 1, True),
    ({}, 365 * DAY, False),
    ({"REGPROXY_MAX_STALE": "1d"}, DAY, False),
    ({"REGPROXY_MAX_STALE": "0"}, 0.0, False),
    ({"ENABLE_MANIFEST_CACHE": "true"}, 365 * DAY + HOUR - 1, True),
    ({"ENABLE_MANIFEST_CACHE": "true"}, 365 * DAY + HOUR, False),
    ({"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_MAX_STALE": "0"}, HOUR, False),
    ({}, -1.0, True),
]


@pytest.mark.parametrize("env, age, want", STAND_INS, ids=str)
def test_who_stands_in(env: dict[str, str], age: float, want: bool) -> None:
    assert policy(**env).lifetime("latest").usable_if_error(age) is want
    if env.get("ENABLE_MANIFEST_CACHE"):
        assert policy(**env).lifetime("latest").usable_if_error(age + HOUR, stretch=2.0) is want


OFFLINE = [
    # method, path, held, want
    ("GET", BLOB, True, Action.SERVE),
    ("GET", BLOB, False, Action.REFUSE),
    ("HEAD", BLOB, False, Action.REFUSE),
    ("GET", MANIFEST, True, Action.SERVE),
    ("GET", TAG, True, Action.STALE),
    ("HEAD", TAG, True, Action.STALE),
    ("GET", TAG, False, Action.REFUSE),
    ("GET", "/v2/", False, Action.PONG),
    ("HEAD", "/v2/", False, Action.PONG),
    ("OPTIONS", "/v2/", False, Action.REFUSE),
    ("GET", "/v2/team/app/tags/list", False, Action.REFUSE),
    ("GET", "/token", False, Action.REFUSE),
    ("POST", "/token", False, Action.REFUSE),
    ("PUT", TAG, True, Action.REFUSE),
]


@pytest.mark.parametrize("method, path, held, want", OFFLINE, ids=str)
@pytest.mark.parametrize("cached", ["true", "false"])
def test_offline(cached: str, method: str, path: str, held: bool, want: Action) -> None:
    rules = policy(REGPROXY_OFFLINE="true", ALLOW_PUSH="true", ENABLE_MANIFEST_CACHE=cached)
    for age in (DAY, 1000 * DAY, -1.0, math.inf):
        plan = rules.plan(method, parse_target(path), held, age)
        assert plan.action is want
        if want is Action.REFUSE:
            assert (plan.status, plan.code, "offline" in plan.reason) == (503, "UNAVAILABLE", True)


def test_offline_by_a_switch() -> None:
    """It is asked for each plan; a setting holds whatever the switch says."""
    switch = [False]
    for env, always in (({}, False), ({"REGPROXY_OFFLINE": "true"}, True)):
        rules = Policy(load(env), lambda: switch[0])
        for switch[0] in (False, True, False):
            assert rules.offline is (switch[0] or always)
            plan = rules.plan("GET", parse_target(BLOB), False, None)
            assert plan.action is (Action.REFUSE if switch[0] or always else Action.FETCH)
            assert rules.plan("GET", parse_target(BLOB), True, None).action is Action.SERVE


def test_a_tier_of_no_time_is_never_fresh() -> None:
    rules = policy(ENABLE_MANIFEST_CACHE="true", MANIFEST_CACHE_DEFAULT_TIME="0s")
    assert rules.plan("GET", parse_target(TAG), True, 0.0).action is Action.FETCH


UPLOADS = "/v2/team/app/blobs/uploads/"
WRITES = [
    # method, path, want without ALLOW_PUSH, with it
    ("PUT", TAG, Action.REFUSE, Action.PASS),
    ("PUT", MANIFEST, Action.REFUSE, Action.PASS),
    ("DELETE", MANIFEST, Action.REFUSE, Action.PASS),
    ("DELETE", BLOB, Action.REFUSE, Action.PASS),
    ("POST", UPLOADS, Action.REFUSE, Action.PASS),
    ("PATCH", UPLOADS + "1", Action.REFUSE, Action.PASS),
    ("PUT", UPLOADS + "1?digest=x", Action.REFUSE, Action.PASS),
    ("DELETE", UPLOADS + "1", Action.REFUSE, Action.PASS),
    ("POST", BLOB, Action.REFUSE, Action.PASS),
    ("PUT", "/v2/", Action.REFUSE, Action.PASS),
    ("DELETE", "/anything", Action.REFUSE, Action.PASS),
    ("TRACE", "/v2/", Action.REFUSE, Action.PASS),
    # logins of newer clients
    ("POST", "/token", Action.PASS, Action.PASS),
    ("POST", "/oauth2/token", Action.PASS, Action.PASS),
    ("OPTIONS", "/v2/", Action.PASS, Action.PASS),
    ("POST", "/v1/users", Action.REFUSE, Action.REFUSE),
    ("PUT", "/v1/x", Action.REFUSE, Action.REFUSE),
]


@pytest.mark.parametrize("method, path, closed, opened", WRITES, ids=str)
def test_plan_of_a_write(method: str, path: str, closed: Action, opened: Action) -> None:
    for allow, want in (("false", closed), ("true", opened)):
        plan = policy(ALLOW_PUSH=allow).plan(method, parse_target(path), True, 0.0)
        assert plan.action is want
        if want is Action.REFUSE:
            v1 = parse_target(path).kind is Kind.V1
            assert (plan.status, plan.code) == ((405, "UNSUPPORTED") if v1 else (403, "DENIED"))
            assert plan.reason
    if closed is not opened:
        plan = policy().plan(method, parse_target(path), False, None)
        assert method in plan.reason
        assert "ALLOW_PUSH" in plan.reason


POSTS = [
    ("/token", Action.PASS),
    ("/v2/token", Action.PASS),
    ("/login/oauth?x=/../v2/", Action.PASS),
    ("/", Action.PASS),
    ("/x/../v2/app/blobs/uploads/", Action.REFUSE),
    ("/x/%2e%2e/v2/app/blobs/uploads/", Action.REFUSE),
    ("/x%2f..%2fv2/app/blobs/uploads/", Action.REFUSE),
    ("//v2/app/blobs/uploads/", Action.REFUSE),
    ("/;/v2/app/blobs/uploads/", Action.REFUSE),
    ("/V2/app/blobs/uploads/", Action.REFUSE),
    ("/nexus/v2/app/blobs/uploads/", Action.REFUSE),
    ("/v2\\app\\blobs\\uploads/token", Action.REFUSE),
]


@pytest.mark.parametrize("path, want", POSTS)
def test_a_post_that_may_be_a_push(path: str, want: Action) -> None:
    assert policy().plan("POST", parse_target(path), False, None, path).action is want
    assert policy(ALLOW_PUSH="true").plan("POST", parse_target(path), False, None, path).action is Action.PASS
    for method in ("PUT", "PATCH", "DELETE"):
        assert policy().plan(method, parse_target(path), False, None, path).action is Action.REFUSE


@pytest.mark.parametrize("status", range(100, 600))
def test_after_head(status: int) -> None:
    """The drop-in serves stale on 500, 502, 504 and 429; 503 is no better than these."""
    if status == 200:
        want = Verdict.STORE
    elif status in (301, 302, 303, 307, 308):
        want = Verdict.FOLLOW
    elif status in (429, 500, 502, 503, 504):
        want = Verdict.TROUBLE
    else:
        want = Verdict.BROKEN if status < 400 else Verdict.RELAY
    assert after_head(status) is want
    assert (status in REDIRECTS, status in STALE_ON) == (want is Verdict.FOLLOW, want is Verdict.TROUBLE)


def held(
    media_type: str, at: float = 0.0, *, index: bool = False, named: int = 0, digest: str = DIGEST
) -> TagRow:
    """A stored variant; `index`: it was asked for with every type in Accept, else with those in `named`."""
    return TagRow("", digest, media_type, 100, at, 0b1111 if index else named)


BITS = {OCI_INDEX: 1, DOCKER_LIST: 2, OCI: 4, DOCKER: 8}
SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"


VARIANTS = [
    ("nothing held", [], accept(OCI), None),
    ("what was asked for", [held(OCI)], accept(OCI), 0),
    ("another type", [held(OCI)], accept(DOCKER), None),
    ("refused", [held(OCI)], accept(f"{OCI};q=0", "*/*"), None),
    ("anything", [held(OCI)], accept("*/*"), 0),
    ("anything but it", [held(OCI)], accept("*/*", f"{OCI};q=0"), None),
    ("anything but its kind", [held(OCI)], accept("*/*", "application/*;q=0.0"), None),
    ("it, and nothing else of its kind", [held(OCI)], accept(OCI, "application/*;q=0"), 0),
    ("anything, and an index held", [held(OCI_INDEX, index=True)], accept("*/*"), 0),
    ("an index, or anything", [held(OCI_INDEX, index=True)], accept(OCI_INDEX, "*/*"), 0),
    ("anything but an index", [held(OCI_INDEX, index=True)], accept("*/*", f"{OCI_INDEX};q=0"), None),
    ("a low quality is one", [held(OCI)], accept(f"{OCI};q=0.001"), 0),
    ("no Accept", [held(OCI)], accept(), 0),
    ("no Accept, an index held", [held(OCI_INDEX, index=True)], accept(), 0),
    ("an index for who takes none", [held(OCI_INDEX, index=True)], accept(OCI, DOCKER), None),
    ("an index for who takes one", [held(OCI_INDEX, index=True)], accept(OCI, OCI_INDEX), 0),
    # Asked with an index type and still a manifest: the tag has no index, so everybody may have it.
    ("a manifest although asked for an index", [held(OCI, index=True)], accept(OCI, OCI_INDEX), 0),
    ("the same for who takes none", [held(OCI, index=True)], accept(OCI), 0),
    # Asked without an index type: there may be an index, which this client would have got.
    ("a single platform's for who takes an index", [held(OCI)], accept(OCI, OCI_INDEX), None),
    ("a single platform's for who takes Docker's list", [held(DOCKER)], accept(DOCKER, DOCKER_LIST), None),
    ("the one of two that suits", [held(OCI_INDEX, 9.0, index=True), held(OCI, 1.0)], accept(OCI), 1),
    ("the other", [held(OCI), held(OCI_INDEX, index=True)], accept(OCI, OCI_INDEX), 1),
    ("the newest", [held(OCI, 1.0), held(OCI, 3.0, digest=OTHER_DIGEST), held(OCI, 2.0)], accept(OCI), 1),
    ("all that there are", [held(OCI_INDEX, index=True)], accept(*sorted(MANIFEST_TYPES)), 0),
    # A registry falls back to one platform for who names the type of the other index.
    ("the other index type was named", [held(DOCKER, named=1 | 8)], accept(DOCKER_LIST, DOCKER), None),
    ("one of the two was named", [held(DOCKER, named=1 | 8)], accept(DOCKER_LIST, OCI_INDEX, DOCKER), None),
    ("the very one was named", [held(DOCKER, named=1 | 8)], accept(OCI_INDEX, DOCKER), 0),
    ("more than one were named", [held(DOCKER, named=3 | 8)], accept(OCI_INDEX, DOCKER), 0),
    # And to schema 1 for who names neither index nor manifest.
    ("schema 1 for who names it alone", [held(SIGNED)], accept(SIGNED), 0),
    ("schema 1 where schema 2 was not named", [held(SIGNED)], accept(SIGNED, DOCKER), None),
    ("schema 1 although schema 2 was named", [held(SIGNED, named=8)], accept(SIGNED, DOCKER), 0),
    ("schema 1 where no index was named", [held(SIGNED, named=8)], accept(SIGNED, DOCKER, OCI_INDEX), None),
]


@pytest.mark.parametrize("rows, wanted, index", [v[1:] for v in VARIANTS], ids=[v[0] for v in VARIANTS])
def test_choose_variant(rows: list[TagRow], wanted: Accept, index: int | None) -> None:
    assert choose_variant(tuple(rows), wanted) is (None if index is None else rows[index])


SOME_TYPES = st.sets(st.sampled_from(sorted(BITS)))


@given(SOME_TYPES, SOME_TYPES, st.sampled_from([OCI, DOCKER]))
def test_a_single_manifest_is_for_subsets(asked: set[str], wanted: set[str], single: str) -> None:
    """Of those who take it: it serves whose index types were all acceptable when it was fetched."""
    row = held(single, named=sum(BITS[media_type] for media_type in asked))
    indexes = {OCI_INDEX, DOCKER_LIST}
    fits = wanted & indexes <= asked & indexes
    assert (choose_variant((row,), accept(*wanted, single)) is row) == fits


@pytest.mark.parametrize(
    "status, whole, resumed",
    [
        (200, Verdict.STORE, Verdict.STORE),
        (206, Verdict.BROKEN, Verdict.STORE),
        (304, Verdict.BROKEN, Verdict.BROKEN),
        (307, Verdict.FOLLOW, Verdict.FOLLOW),
        (404, Verdict.RELAY, Verdict.RELAY),
        (416, Verdict.RELAY, Verdict.COMPLETE),
        (503, Verdict.TROUBLE, Verdict.TROUBLE),
    ],
)
def test_after_head_of_the_rest(status: int, whole: Verdict, resumed: Verdict) -> None:
    """A range is an answer only to who has asked for one."""
    assert (after_head(status), after_head(status, resumed=True)) == (whole, resumed)
