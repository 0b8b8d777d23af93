"""Make one pull or push of the many requests that it consists of.

A pull is what one client asks of one repository for one reference: HEAD or GET of it, GETs of the manifests
that it leads to, and of the blobs that these name. Requests come over several connections and workers, whose
events arrive out of order, so they wait for HOLD seconds and are then taken in the order of their begin.

A pull ends once all blobs of its manifests have been asked for, or when nothing has been asked for a while,
or when the client begins anew with the reference. All of this is bounded: at a limit the pull that has been
quiet for longest ends early, and what follows is another one.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from msgspec import Struct, field, to_builtins

from regproxy.core.lru import Bounded
from regproxy.registry.descriptors import Named
from regproxy.registry.targets import is_digest
from regproxy.telemetry.audit_events import EVENTS_MAX, AuditEvent

HOLD: Final = 1.0  # seconds; workers send every quarter of a second
SETTLE: Final = 2.0  # seconds that a pull with all its blobs is still open: attestations, retries
LIFE_MAX: Final = 3600.0  # seconds; clients that read layers lazily never end
OPEN_MAX: Final = 2048
_KEY_MAX: Final = 32  # open pulls of one client in one repository
_BLOBS_MAX: Final = 512  # digests that are remembered of a pull
_MANIFESTS_MAX: Final = 16
_NAMED_MAX: Final = 128  # manifests that are remembered with what they name

_SOURCES: Final = {
    "HIT": "hit",
    "REVALIDATED": "hit",
    "STALE": "stale",
    **dict.fromkeys(("MISS", "EXPIRED", "UPDATING", "BYPASS"), "registry"),
}
_RANK: Final = {"": 0, "hit": 1, "stale": 2, "registry": 3}

NamedBy = Callable[[str], Named | None]


class PullKey(NamedTuple):
    """Requests that may belong together. `client`: an address."""

    client: str
    principal: str
    proven: str
    way: str
    registry: str
    repository: str


class Pull(Struct):
    """A pull or push that is open, or has ended. Times are monotonic.

    `reference`: as the client has asked, "" where it has asked for blobs alone. `digest`: what that was.
    `manifests`: those that it led to. `by`: the method by which the reference was answered. `failed`: blobs
    that were refused, with the status, until one is answered.
    """

    key: PullKey
    action: str
    began: float
    last: float
    reference: str = ""
    digest: str = ""
    manifests: list[str] = field(default_factory=list)
    by: str = ""
    blobs: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    ended: float = 0.0
    sent: int = 0
    cached: int = 0
    received: int = 0
    source: str = ""
    status: int = 0
    decision: str = ""
    rule: str = ""
    complete: bool = False
    closed: str = ""

    def add(self, event: AuditEvent) -> None:
        """Count a request as part of it."""
        source = _SOURCES.get(event.cache, "")
        self.requests += 1
        self.began = min(self.began, event.started)
        self.ended = max(self.ended, event.started + event.seconds)
        self.sent += event.sent
        self.received += event.received
        if source in ("hit", "stale"):
            self.cached += event.sent
        if _RANK[source] > _RANK[self.source]:
            self.source = source
        if event.decision and self.decision != "deny":
            self.decision, self.rule = event.decision, event.rule

    @property
    def answer(self) -> int:
        """The status that tells what became of it."""
        return self.status if self.status >= 400 or not self.failed else next(iter(self.failed.values()))

    def dump(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        told: dict[str, Any] = to_builtins(self)
        return told | {"blobs": sorted(self.blobs)}

    @classmethod
    def load(cls, told: dict[str, Any]) -> Pull:
        """Make it of what dump() has returned."""
        return cls(**told | {"key": PullKey(*told["key"]), "blobs": set(told["blobs"])})


class Pulls:
    """The open pulls. `named_by` tells what a manifest names, None for one that is not held.

    `idle`: seconds without a request after which a pull has ended. `lost`: events that came too fast.
    """

    def __init__(self, named_by: NamedBy, idle: float) -> None:
        self._named_by = named_by
        self._idle = idle
        self._named: Bounded[str, Named] = Bounded(_NAMED_MAX)
        # Not held when they were looked for in this tick: a client may ask for one of these very often.
        self._not_held: set[str] = set()
        self._held: list[tuple[float, int, AuditEvent]] = []  # when it began, but for what is late anyway
        self._count = 0
        self._open: OrderedDict[int, Pull] = OrderedDict()  # by id(), the one that was quiet longest first
        self._by_key: dict[PullKey, list[Pull]] = {}
        self._ended: list[Pull] = []
        self.lost = 0

    # --- in and out --------------------------------------------------------------------------------------

    def take(self, event: AuditEvent, now: float) -> None:
        """Take in what a worker tells."""
        if len(self._held) >= EVENTS_MAX:
            self.lost += 1
            return
        self._count += 1
        heapq.heappush(self._held, (max(event.started, now - HOLD), self._count, event))

    def adopt(self, pull: Pull) -> None:
        """Take over an open pull of another process."""
        self._begin(pull)

    def tick(self, now: float, *, at_once: bool = False) -> list[Pull]:
        """Sort what was taken in; return the pulls that have ended. `at_once`: nothing more will come."""
        self._not_held.clear()
        while self._held and (at_once or now - self._held[0][0] >= HOLD):
            event = heapq.heappop(self._held)[2]
            if event.what == "alive":
                for pull in self._by_key.get(_key_of(event), ()):
                    self._touch(pull, now)
            else:
                self._sort(event, now)
        for pull in [each for each in self._open.values() if self._is_over(each, now)]:
            self._end(pull, pull.closed)
        ended, self._ended = self._ended, []
        return ended

    def end(self) -> list[Pull]:
        """End all open pulls, and return them."""
        ended = self.tick(0.0, at_once=True)
        for pull in list(self._open.values()):
            self._end(pull, "end")
        ended += self._ended
        self._ended = []
        return ended

    def leave(self) -> tuple[list[AuditEvent], list[Pull]]:
        """Return the events that wait and the open pulls, for another process to go on with."""
        return [each[2] for each in sorted(self._held)], list(self._open.values())

    def platforms(self, pull: Pull) -> str:
        """Return the platforms that a client has chosen from an index, with commas; "" if not known."""
        index = self._names(pull.digest)
        chosen = [index.children.get(digest, "") for digest in pull.manifests] if index is not None else []
        return ",".join(dict.fromkeys(filter(None, chosen)))[:256]

    # --- which pull a request belongs to -----------------------------------------------------------------

    def _sort(self, event: AuditEvent, now: float) -> None:
        mine = self._by_key.get(_key_of(event), [])
        if event.what == "upload" or event.method == "PUT":
            self._sort_push(event, [each for each in mine if each.action == "push"], now)
            return
        pulls = [each for each in reversed(mine) if each.action == "pull"]
        if event.what == "blob":
            self._add_blob(event, pulls, now)
        else:
            self._add_manifest(event, pulls, now)

    def _add_manifest(self, event: AuditEvent, pulls: list[Pull], now: float) -> None:
        pull = next((each for each in pulls if each.reference == event.reference), None)
        if pull is not None and pull.by and (pull.by, event.method) != ("HEAD", "GET"):
            self._end(pull, "again")
            pull = None
        if pull is None and ":" in event.reference:
            leads = next((each for each in pulls if self._leads_to(each, event.reference)), None)
            if leads is not None:
                self._add_child(event, leads, now)
                return
        if pull is None:
            pull = self._begin(Pull(_key_of(event), "pull", event.started, now, event.reference))
        self._add(pull, event, now)
        pull.status = event.status
        if event.status < 400:
            pull.by, pull.digest = event.method, event.digest or pull.digest
        self._look(pull)

    def _add_child(self, event: AuditEvent, pull: Pull, now: float) -> None:
        self._add(pull, event, now)
        pull.status = event.status
        is_child = event.reference != pull.digest and event.reference not in pull.manifests
        if event.status < 400 and is_child and len(pull.manifests) < _MANIFESTS_MAX:
            pull.manifests.append(event.reference)
        self._look(pull)

    def _leads_to(self, pull: Pull, digest: str) -> bool:
        """Return whether a pull's reference is this manifest, or an index that names it."""
        if digest == pull.digest or digest in pull.manifests:
            return True
        known = self._names(pull.digest) if pull.digest else None
        # An index that is not held can't be asked: what follows upon it is taken for its manifest.
        return digest in known.children if known is not None else pull.by != ""

    def _add_blob(self, event: AuditEvent, pulls: list[Pull], now: float) -> None:
        pull = next((each for each in pulls if self._names_blob(each, event.reference)), None)
        if pull is None:
            pull = pulls[0] if pulls else None
        if pull is None:
            pull = self._begin(Pull(_key_of(event), "pull", event.started, now))
        self._add(pull, event, now)
        if not pull.reference:
            pull.status = event.status
        if event.status >= 400:
            if len(pull.failed) < _BLOBS_MAX:
                pull.failed[event.reference] = event.status
        elif len(pull.blobs) < _BLOBS_MAX:
            pull.blobs.add(event.reference)
            pull.failed.pop(event.reference, None)
        self._look(pull)

    def _names_blob(self, pull: Pull, digest: str) -> bool:
        return any(digest in named.blobs for named in self._leaves(pull))

    def _sort_push(self, event: AuditEvent, pushes: list[Pull], now: float) -> None:
        push = pushes[-1] if pushes else None
        is_manifest = event.what == "manifest"
        if push is not None and push.by and (not is_manifest or ":" not in event.reference):
            self._end(push, "again")
            push = None
        if push is None:
            push = self._begin(Pull(_key_of(event), "push", event.started, now))
        self._add(push, event, now)
        if not is_manifest:
            push.status = event.status
            return
        self._absorb(push, event)
        push.status = event.status
        if ":" in event.reference and len(push.manifests) < _MANIFESTS_MAX:
            push.manifests.append(event.reference)
        if ":" not in event.reference or not push.by:
            push.reference, push.digest = event.reference, event.digest
        if ":" not in event.reference and event.status < 400:
            push.by, push.complete = "PUT", True
            push.manifests = [each for each in push.manifests if each != push.digest]

    def _absorb(self, push: Pull, event: AuditEvent) -> None:
        """Count HEADs by which a client has looked whether there is anything to push as part of the push."""
        for pull in [each for each in self._by_key[push.key] if each.action == "pull"]:
            if (
                pull.sent == 0
                and pull.by in ("", "HEAD")
                and pull.reference in (event.reference, event.digest)
            ):
                push.requests += pull.requests
                push.began = min(push.began, pull.began)
                self._forget(pull)

    # --- beginning and ending ----------------------------------------------------------------------------

    def _begin(self, pull: Pull) -> Pull:
        mine = self._by_key.setdefault(pull.key, [])
        if len(mine) >= _KEY_MAX:
            self._end(mine[0], "limit")
        elif len(self._open) >= OPEN_MAX:
            self._end(next(iter(self._open.values())), "limit")
        self._open[id(pull)] = pull
        self._by_key.setdefault(pull.key, []).append(pull)
        return pull

    def _add(self, pull: Pull, event: AuditEvent, now: float) -> None:
        pull.add(event)
        self._touch(pull, now)

    def _touch(self, pull: Pull, now: float) -> None:
        pull.last = now
        self._open.move_to_end(id(pull))

    def _end(self, pull: Pull, why: str) -> None:
        pull.closed = "complete" if pull.complete else why
        self._forget(pull)
        self._ended.append(pull)

    def _forget(self, pull: Pull) -> None:
        del self._open[id(pull)]
        mine = self._by_key[pull.key]
        mine.remove(pull)
        if not mine:
            del self._by_key[pull.key]

    def _is_over(self, pull: Pull, now: float) -> bool:
        quiet = now - pull.last
        if pull.complete and quiet >= min(SETTLE, self._idle):
            pull.closed = "complete"
        elif quiet >= self._idle:
            pull.closed = "idle"
        elif now - pull.began >= LIFE_MAX:
            pull.closed = "limit"
        return pull.closed != ""

    # --- what manifests name -----------------------------------------------------------------------------

    def _look(self, pull: Pull) -> None:
        """See whether all blobs have been asked for."""
        leaves = list(self._leaves(pull))
        wanted = [each for each in leaves if each.blobs]
        pull.complete = bool(wanted) and all(each.whole and each.blobs <= pull.blobs for each in wanted)

    def _leaves(self, pull: Pull) -> Iterator[Named]:
        for digest in (pull.digest, *pull.manifests):
            known = self._names(digest) if digest else None
            if known is not None:
                yield known

    def _names(self, digest: str) -> Named | None:
        known = self._named.get(digest)
        if known is not None or digest in self._not_held:
            return known
        # A path of odd spelling has any text in a digest's place, and `named_by` makes a file's name of it.
        known = self._named_by(digest) if is_digest(digest) else None
        if known is None:
            self._not_held.add(digest)
        else:
            self._named.put(digest, known)
        return known


def _key_of(event: AuditEvent) -> PullKey:
    return PullKey(*event[2:8])
