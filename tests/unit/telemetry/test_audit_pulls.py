"""Which requests are one pull, when it has ended, and that nothing in it grows without end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from regproxy.registry.descriptors import Named
from regproxy.telemetry.audit_events import EVENTS_MAX, AuditEvent
from regproxy.telemetry.audit_pulls import HOLD, LIFE_MAX, OPEN_MAX, Pull, Pulls

IDLE = 30.0
INDEX, ARM, AMD, OTHER = (f"sha256:{digit * 64}" for digit in "abcd")
ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")
HELD = {
    INDEX: Named({ARM: "linux/arm64", AMD: "linux/amd64", OTHER: ""}),
    ARM: Named(blobs=frozenset({ONE, TWO})),
    AMD: Named(blobs=frozenset({ONE, THREE})),
}
NONE: dict[str, Named] = {}
BASE: dict[str, Any] = {
    "started": 0.0,
    "seconds": 0.5,
    "client": "192.0.2.1",
    "principal": "",
    "proven": "anonymous",
    "way": "connect",
    "registry": "ghcr.io",
    "repository": "lib/app",
    "method": "GET",
    "what": "manifest",
    "reference": "v1",
    "digest": "",
    "status": 200,
    "sent": 10,
    "received": 0,
    "cache": "HIT",
    "decision": "",
    "rule": "",
}


def event(**changes: Any) -> AuditEvent:
    return AuditEvent(**BASE | changes)


def tag(method: str = "GET", digest: str = INDEX, **changes: Any) -> AuditEvent:
    return event(method=method, digest=digest, sent=0 if method == "HEAD" else 10, **changes)


def child(reference: str, **changes: Any) -> AuditEvent:
    return event(reference=reference, digest=reference, **changes)


def blob(reference: str, **changes: Any) -> AuditEvent:
    return event(what="blob", reference=reference, **changes)


@dataclass(frozen=True)
class Line:
    """What of an ended pull a test looks at."""

    reference: str = "v1"
    digest: str = INDEX
    platform: str = "linux/arm64"
    blobs: int = 2
    requests: int = 0
    source: str = "hit"
    status: int = 200
    closed: str = "complete"


def line(pulls: Pulls, pull: Pull) -> Line:
    return Line(
        *(pull.reference, pull.digest, pulls.platforms(pull), len(pull.blobs), pull.requests),
        *(pull.source, pull.answer, pull.closed),
    )


def told(events: Sequence[AuditEvent], held: dict[str, Named] = HELD) -> list[Line]:
    """Take in events, eight a second, let all end, and return the pulls as they have ended."""
    pulls, ended = Pulls(held.get, IDLE), []
    now = 0.0
    for number, each in enumerate(events):
        now = number / 8
        pulls.take(each._replace(started=each.started or now), now)
        ended += pulls.tick(now)
    ended += pulls.tick(now + HOLD)
    ended += pulls.tick(now + HOLD + IDLE)
    return [line(pulls, each) for each in ended]


BLOBS = [blob(ONE), blob(TWO)]
PULLED = [tag(), child(ARM), *BLOBS]


@pytest.mark.parametrize(
    "events, want",
    [
        pytest.param(PULLED, [Line(requests=4)], id="skopeo: GET of all"),
        pytest.param(
            [tag("HEAD"), child(INDEX), child(ARM), *BLOBS],
            [Line(requests=5)],
            id="containerd: HEAD, digests",
        ),
        pytest.param(
            [tag("HEAD"), child(INDEX), child(ARM), child(OTHER), *BLOBS],
            [Line(requests=6)],
            id="an attestation beside it",
        ),
        pytest.param(
            [tag(), child(ARM), child(AMD), *BLOBS, blob(THREE)],
            [Line(platform="linux/arm64,linux/amd64", blobs=3, requests=6)],
            id="all platforms",
        ),
        pytest.param(
            [child(ARM, method="HEAD"), child(ARM), *BLOBS],
            [Line(reference=ARM, digest=ARM, platform="", requests=4)],
            id="by digest",
        ),
        pytest.param(
            [tag(status=401, digest="", cache="BYPASS"), *PULLED],
            [Line(requests=5, source="registry")],
            id="without a token, then with",
        ),
        pytest.param(
            [tag(status=404, digest="", cache="MISS")] * 3,
            [Line(digest="", platform="", blobs=0, requests=3, source="registry", status=404, closed="idle")],
            id="refused again and again",
        ),
        pytest.param([*PULLED, *PULLED], [Line(requests=4), Line(requests=4)], id="the same again, at once"),
        pytest.param(
            [tag("HEAD"), tag("HEAD")],
            [Line(platform="", blobs=0, requests=1, closed=why) for why in ("again", "idle")],
            id="looked at twice",
        ),
        pytest.param(
            [tag(), child(ARM, cache="STALE"), blob(ONE), blob(TWO, cache="MISS")],
            [Line(requests=4, source="registry")],
            id="some of it from the registry",
        ),
        pytest.param(
            [tag(), child(ARM, cache="STALE"), *BLOBS], [Line(requests=4, source="stale")], id="stale"
        ),
        pytest.param(
            [tag(), child(ARM), blob(ONE, status=500), blob(ONE), blob(TWO)],
            [Line(requests=5)],
            id="a blob asked for twice",
        ),
        pytest.param(
            [tag(), child(ARM), blob(ONE, status=403), blob(TWO)],
            [Line(blobs=1, requests=4, status=403, closed="idle")],
            id="a blob refused",
        ),
        pytest.param(
            [tag(), child(ARM), blob(ONE)],
            [Line(blobs=1, requests=3, closed="idle")],
            id="the client has the rest",
        ),
        pytest.param(BLOBS, [Line("", "", "", requests=2, closed="idle")], id="blobs alone"),
        pytest.param(
            [tag(), tag(reference="v2", digest=AMD), child(ARM), blob(TWO), blob(THREE)],
            [
                Line(blobs=1, requests=3, closed="idle"),
                Line("v2", AMD, "", 1, 2, closed="idle"),
            ],
            id="two tags at a time",
        ),
        pytest.param(
            [
                event(**{name: value})
                for name, value in (
                    ("client", "192.0.2.2"),
                    ("principal", "ci"),
                    ("way", "mirror"),
                    ("repository", "lib/b"),
                    ("registry", "quay.io"),
                )
            ],
            [Line(digest="", platform="", blobs=0, requests=1, closed="idle")] * 5,
            id="what others ask for",
        ),
    ],
)
def test_pulls(events: list[AuditEvent], want: list[Line]) -> None:
    assert told(events) == want


def test_an_index_that_is_not_held_leads_to_what_follows() -> None:
    want = [Line(platform="", requests=4, closed="idle")]
    assert told([tag(), child(ARM), *BLOBS], NONE) == want


def put(reference: str, digest: str, **changes: Any) -> AuditEvent:
    return event(
        method="PUT", reference=reference, digest=digest, sent=0, received=7, cache="BYPASS", **changes
    )


UPLOADS = [
    event(what="upload", method=method, reference="", sent=0, received=50, cache="BYPASS")
    for method in ("POST", "PATCH", "PUT")
]


@pytest.mark.parametrize(
    "events, want",
    [
        pytest.param([*UPLOADS, put("v1", ARM)], [Line("v1", ARM, "", 0, 4, "registry")], id="an image"),
        pytest.param(
            [*UPLOADS, put(ARM, ARM), put("v1", INDEX)],
            [Line(blobs=0, requests=5, source="registry")],
            id="an index",
        ),
        pytest.param(
            [tag("HEAD", "", status=404), *UPLOADS, put("v1", ARM)],
            [Line("v1", ARM, "", 0, 5, "registry")],
            id="looked for first",
        ),
        pytest.param(
            [put("v1", ARM), put("v2", ARM)],
            [Line(name, ARM, "", 0, 1, "registry") for name in ("v1", "v2")],
            id="two tags",
        ),
        pytest.param(
            [event(what="upload", method="POST", reference="", status=403, sent=9)],
            [Line("", "", "", 0, 1, status=403, closed="idle")],
            id="refused",
        ),
        pytest.param([put(ARM, ARM)], [Line(ARM, ARM, "", 0, 1, "registry", closed="idle")], id="by digest"),
    ],
)
def test_pushes(events: list[AuditEvent], want: list[Line]) -> None:
    assert told(events) == want


def test_events_of_several_workers_come_in_any_order() -> None:
    pulls = Pulls(HELD.get, IDLE)
    for number, each in reversed(list(enumerate(PULLED))):
        pulls.take(each._replace(started=number / 10), 0.5)
    (pull,) = pulls.tick(0.5 + HOLD) + pulls.end()
    assert line(pulls, pull) == Line(requests=4)


def test_a_long_answer_keeps_its_pull_open() -> None:
    pulls = Pulls(HELD.get, IDLE)
    pulls.take(tag(), 0.0)
    pulls.take(child(ARM), 0.0)
    assert pulls.tick(HOLD) == []
    for now in range(10, 1000, 10):
        pulls.take(event(what="alive", reference=ONE, started=1.0), now)
        assert pulls.tick(now + HOLD) == []
    pulls.take(blob(ONE, started=1.0, seconds=1000.0), 1001.0)
    pulls.take(blob(TWO, started=2.0), 1001.0)
    (pull,) = pulls.tick(1001.0) + pulls.tick(1004.0)
    assert (line(pulls, pull), pull.ended) == (Line(requests=4), 1001.0)


def test_late_events_do_not_hold_up_others() -> None:
    pulls = Pulls(HELD.get, 0.1)
    pulls.take(tag(started=99.5), 100.0)
    pulls.take(blob(ONE, started=1.0, repository="lib/b"), 100.4)  # began long ago
    ended = pulls.tick(100.5) + pulls.tick(100.7)
    assert {pull.key.repository for pull in ended} == {"lib/app", "lib/b"}


def test_another_process_goes_on() -> None:
    first, second = Pulls(HELD.get, IDLE), Pulls(HELD.get, IDLE)
    for each in PULLED[:3]:
        first.take(each, 0.0)
    first.tick(HOLD)
    first.take(PULLED[3]._replace(started=2.0), 2.0)
    events, pulls = first.leave()
    for pull in pulls:
        second.adopt(Pull.load(pull.dump()))
    for each in events:
        second.take(each, 2.0)
    (pull,) = second.tick(2.0 + HOLD) + second.tick(9.0)
    assert line(second, pull) == Line(requests=4)


def test_a_rule_that_denies_is_not_overruled_by_one_that_allows() -> None:
    pulls = Pulls(HELD.get, IDLE)
    for number, (decision, rule) in enumerate([("warn", "a"), ("deny", "b"), ("allow", "c")]):
        pulls.take(tag(status=403, decision=decision, rule=rule, started=number), 3.0)
    (pull,) = pulls.end()
    assert (pull.decision, pull.rule) == ("deny", "b")


# --- what is looked for in the cache ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference", ["sha256:\0", f"sha256:../{'0' * 61}", f"sha512:{'0' * 128}", "latest:"]
)
def test_what_is_no_digest_is_not_looked_for(reference: str) -> None:
    """A client may write anything in a digest's place, and a file's name is made of what is looked for."""
    looked: list[str] = []
    pulls = Pulls(looked.append, IDLE)
    for number, each in enumerate([tag("HEAD"), child(reference), blob(ONE)]):
        pulls.take(each._replace(started=number / 8), 1.0)
    (pull,) = pulls.end()
    assert pull.manifests == [reference]
    assert pulls.platforms(pull) == ""
    assert set(looked) == {INDEX}


def test_what_is_not_held_is_looked_for_once_a_turn() -> None:
    looked: list[str] = []
    pulls = Pulls(looked.append, IDLE)
    for turn in (1, 2):
        for number in range(50):
            pulls.take(blob(f"sha256:{number:064x}", started=turn * HOLD), turn * HOLD)
        pulls.take(tag("HEAD", started=turn * HOLD), turn * HOLD)
        pulls.tick((turn + 1) * HOLD)
        assert looked == [INDEX] * turn


# --- limits ------------------------------------------------------------------------------------------------


def test_clients_can_open_only_so_many() -> None:
    pulls = Pulls(HELD.get, IDLE)
    ended = []
    for number in range(OPEN_MAX + 100):
        pulls.take(event(client=f"c{number}", started=number / 1e6), 0.0)
        ended += pulls.tick(HOLD + 1)
    assert [pull.closed for pull in ended] == ["limit"] * 100
    assert [pull.key.client for pull in ended] == [f"c{number}" for number in range(100)]
    assert len(pulls.end()) == OPEN_MAX


def test_one_client_can_open_fewer() -> None:
    pulls = Pulls(HELD.get, IDLE)
    for number in range(100):
        pulls.take(event(reference=f"v{number}", started=number / 1e6), 0.0)
    ended = pulls.tick(HOLD + 1)
    assert [pull.closed for pull in ended] == ["limit"] * 68


def test_events_that_come_too_fast_are_counted() -> None:
    pulls = Pulls(HELD.get, IDLE)
    for _ in range(EVENTS_MAX + 5):
        pulls.take(event(), 0.0)
    assert pulls.lost == 5


def test_a_pull_that_never_ends_is_cut_into_pieces() -> None:
    pulls, ended = Pulls(NONE.get, IDLE), 0
    for now in range(0, int(3 * LIFE_MAX), 10):
        pulls.take(blob(f"sha256:{now:064x}", started=now), now)
        ended += len(pulls.tick(now))
    assert ended == 2
    assert all(len(pull.blobs) <= 512 for pull in pulls.end())
