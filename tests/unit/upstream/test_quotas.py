"""Quotas: what registries say of them, who is not asked, how long tags last, and what two workers know."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.config.values.numbers import Reserve
from regproxy.core.errors import RateLimited
from regproxy.http.messages import Response, parse_response
from regproxy.registry.rate_limits import (
    RETRY_MAX,
    STRETCH_MAX,
    Lane,
    Report,
    client_credential,
)
from regproxy.registry.targets import Kind
from regproxy.upstream.quota_file import ENTRIES_MAX, Block, QuotaEntry, QuotaFile, decode, encode
from regproxy.upstream.quotas import Quotas

HUB = "registry-1.docker.io"
NOW = 1_800_000_000.0
TENTH = Reserve(10, percent=True)


def answer(status: int = 200, **fields: str) -> Response:
    """The head of an answer; `retry_after="60"` is Retry-After: 60."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return parse_response("\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode(), "HEAD")


def of_hub(remaining: int, status: int = 200, **fields: str) -> Response:
    """What Docker Hub says."""
    quota = {"ratelimit_limit": "100;w=21600", "ratelimit_remaining": f"{remaining};w=21600"}
    return answer(status, **quota, docker_ratelimit_source="192.0.2.1", **fields)


# --- who asks --------------------------------------------------------------------------------------------


def jwt(claims: object) -> bytes:
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return b"eyJhbGciOiJSUzI1NiJ9." + middle + b".c2lnbmF0dXJl"


def bearer(claims: object) -> str:
    return client_credential(b"Bearer " + jwt(claims))


# --- one worker ------------------------------------------------------------------------------------------


class Counted:
    """Where it is counted."""

    def __init__(self) -> None:
        self.quotas: dict[tuple[str, str], tuple[int, int]] = {}
        self.refused: Counter[tuple[str, str, str]] = Counter()
        self.manifests: Counter[tuple[str, str, str]] = Counter()

    def quota(
        self, registry: str, credential: str, limit: int, remaining: int, window: float, seen: float
    ) -> None:
        self.quotas[registry, credential] = (limit, remaining)

    def upstream_429(self, registry: str, credential: str, method: str) -> None:
        self.refused[registry, credential, method] += 1

    def manifest_request(self, registry: str, credential: str, method: str) -> None:
        self.manifests[registry, credential, method] += 1


class Lab:
    """Quotas, of as many workers as are wanted, with one clock and one directory."""

    def __init__(self, directory: Path | None, reserve: Reserve = TENTH) -> None:
        self.now = NOW
        self.directory = directory
        self.reserve = reserve
        self.counted = Counted()

    def worker(self) -> Quotas:
        state = QuotaFile(self.directory / "quotas.json") if self.directory is not None else None
        return Quotas(state, self.reserve, self.counted, lambda: self.now)


@pytest.fixture
def lab() -> Lab:
    """Without a directory."""
    return Lab(None)


@pytest.fixture
def shared(tmp_path: Path) -> Lab:
    """With one, which is not there yet."""
    return Lab(tmp_path / "state")


def get(quotas: Quotas, response: Response, credential: str = "anonymous") -> None:
    quotas.observe(HUB, credential, "GET", Kind.TAG, response)


def may(quotas: Quotas, method: str = "GET", kind: Kind = Kind.TAG, credential: str = "anonymous") -> bool:
    try:
        quotas.admit(HUB, credential, method, kind)
    except RateLimited:
        return False
    return True


def test_retry_after_runs(lab: Lab) -> None:
    quotas = lab.worker()
    assert may(quotas)
    get(quotas, answer(429, retry_after="60"))
    with pytest.raises(RateLimited) as caught:
        quotas.admit(HUB, "anonymous", "GET", Kind.MANIFEST)
    error = caught.value
    assert (error.status, error.code, error.retry_after) == (429, "TOOMANYREQUESTS", 60)
    assert str(error) == (
        "registry-1.docker.io has refused GETs of manifests of anonymous (429, too many requests):"
        " not asked until 2027-01-15T08:01:00Z, in 60 s"
    )
    lab.now += 59.5
    assert not may(quotas)
    lab.now += 0.5
    assert may(quotas)


def test_what_is_counted_apart_is_refused_apart(lab: Lab) -> None:
    quotas = lab.worker()
    get(quotas, answer(429, retry_after="60"))
    assert may(quotas, "HEAD", Kind.TAG)
    assert may(quotas, "GET", Kind.BLOB)
    assert may(quotas, "GET", Kind.TOKEN)
    assert may(quotas, credential="robot")
    quotas.admit("quay.io", "anonymous", "GET", Kind.TAG)
    quotas.observe(HUB, "anonymous", "HEAD", Kind.TAG, answer(429, retry_after="90"))
    assert not may(quotas, "HEAD", Kind.TAG)
    lab.now += 61
    assert may(quotas)
    assert not may(quotas, "HEAD", Kind.MANIFEST)


def test_without_retry_after_the_waits_double(lab: Lab) -> None:
    quotas = lab.worker()
    for want in (1, 2, 4, 8):
        get(quotas, answer(429))
        get(quotas, answer(429))  # was under way already, and is no further refusal
        lab.now += want - 0.25
        assert not may(quotas)
        lab.now += 0.25
        assert may(quotas)
    get(quotas, answer(200))
    get(quotas, answer(429))
    lab.now += 1
    assert may(quotas)


def test_an_answer_to_an_earlier_request_lifts_nothing(lab: Lab) -> None:
    quotas = lab.worker()
    get(quotas, answer(429, retry_after="60"))
    get(quotas, answer(200))
    assert not may(quotas)


def test_a_refusal_long_ago_does_not_count(lab: Lab) -> None:
    quotas = lab.worker()
    for _ in range(5):
        get(quotas, answer(429))
        lab.now += 400
    lab.now += 4000
    get(quotas, answer(429))
    lab.now += 1
    assert may(quotas)


def test_a_longer_retry_after_holds(lab: Lab) -> None:
    quotas = lab.worker()
    for seconds in ("60", "90", "10"):
        get(quotas, answer(429, retry_after=seconds))
    lab.now += 89
    assert not may(quotas)
    lab.now += 1
    assert may(quotas)


def test_a_clock_that_is_set_back_blocks_nobody(lab: Lab) -> None:
    quotas = lab.worker()
    get(quotas, of_hub(0, 429, retry_after="60"))
    lab.now -= 86_400
    assert may(quotas)
    get(quotas, answer(429, retry_after="5"))
    assert not may(quotas)
    lab.now += 5
    assert may(quotas)


def test_counting(lab: Lab) -> None:
    quotas, client = lab.worker(), bearer({"sub": "u1"})
    get(quotas, of_hub(76))
    quotas.observe(HUB, client, "HEAD", Kind.MANIFEST, of_hub(99))
    quotas.observe(HUB, client, "GET", Kind.BLOB, answer(307))
    quotas.observe(HUB, client, "PUT", Kind.TAG, answer(201))
    get(quotas, answer(429))
    get(quotas, answer(429))
    assert lab.counted.quotas == {(HUB, "anonymous"): (100, 76), (HUB, "client"): (100, 99)}
    assert lab.counted.refused == {(HUB, "anonymous", "GET"): 2}
    assert lab.counted.manifests == {
        (HUB, "anonymous", "GET"): 3,
        (HUB, "client", "HEAD"): 1,
        (HUB, "client", "other"): 1,
    }


def test_tags_last_longer(lab: Lab) -> None:
    quotas = lab.worker()
    assert quotas.stretch(HUB) == 1.0
    get(quotas, of_hub(50))
    assert quotas.stretch(HUB) == 1.0
    get(quotas, of_hub(5))
    get(quotas, of_hub(80), "robot")
    assert quotas.stretch(HUB) == 2.0
    assert quotas.stretch("quay.io") == 1.0
    get(quotas, answer(429, retry_after="60"))
    assert quotas.stretch(HUB) == STRETCH_MAX
    lab.now += 61
    assert 1.0 < quotas.stretch(HUB) < 2.0
    lab.now += 21_600
    assert quotas.stretch(HUB) == 1.0


def test_a_reserve_of_nothing_stretches_nothing() -> None:
    lab = Lab(None, Reserve(0))
    quotas = lab.worker()
    get(quotas, of_hub(0, 429, retry_after="60"))
    assert quotas.stretch(HUB) == 1.0


def test_what_is_remembered_is_bounded(lab: Lab) -> None:
    quotas = lab.worker()
    for number in range(2 * ENTRIES_MAX):
        lab.now += 0.001
        get(quotas, of_hub(5), f"client:{number}")
    assert len(quotas._entries) == ENTRIES_MAX
    assert (HUB, f"client:{2 * ENTRIES_MAX - 1}") in quotas._entries


def test_answers_without_a_quota_are_not_remembered(lab: Lab) -> None:
    quotas = lab.worker()
    get(quotas, answer(200))
    get(quotas, answer(401))
    assert not quotas._entries


# --- two workers, and the next start ---------------------------------------------------------------------


def test_what_one_learns_the_other_knows_a_second_later(shared: Lab) -> None:
    one, two = shared.worker(), shared.worker()
    get(one, of_hub(0, 429, retry_after="60"))
    shared.now += 1
    assert not may(two)
    assert two.stretch(HUB) == STRETCH_MAX
    assert may(two, "HEAD")


def test_it_outlives_the_process(shared: Lab) -> None:
    one = shared.worker()
    get(one, of_hub(7))
    quotas = shared.worker()
    assert quotas.stretch(HUB) == 1.0, "what is left is not written at once"
    one.close()
    shared.counted.quotas.clear()
    quotas = shared.worker()
    assert quotas.stretch(HUB) == pytest.approx(10 / 7)
    assert shared.counted.quotas == {(HUB, "anonymous"): (100, 7)}


def test_a_change_is_written_soon(tmp_path: Path) -> None:
    """Who reads the file need not wait for the next request; many changes are one write."""
    waiting: list[Callable[[], None]] = []
    file = tmp_path / "quotas.json"
    now = [NOW]
    state = QuotaFile(file)
    quotas = Quotas(
        *(state, TENTH, Counted()), clock=lambda: now[0], later=lambda _, call: waiting.append(call)
    )
    get(quotas, of_hub(5))
    now[0] += 2
    for left in (4, 3, 2):
        get(quotas, of_hub(left))
    (call,) = waiting
    call()
    (entry,) = decode(file.read_bytes()).values()
    assert entry.report is not None and entry.report.remaining == 2
    # Another worker has written over it: it is written again, and then nobody waits any more.
    QuotaFile(file).write({})
    for at in (1, 2):
        waiting[at]()
    assert len(decode(file.read_bytes())) == 1
    assert len(waiting) == 3


def test_two_that_write_at_once_agree(shared: Lab) -> None:
    one, two = shared.worker(), shared.worker()
    get(one, of_hub(3, 429, retry_after="60"), "a")
    lost = (shared.directory or Path()) / "quotas.json"
    lost.unlink()  # as if two had not seen it before it put its own in that place
    get(two, of_hub(4, 429, retry_after="70"), "b")
    for _ in range(4):
        shared.now += 5
        for worker in (one, two):
            worker.stretch(HUB)
    assert one._entries == two._entries == decode(lost.read_bytes())
    assert set(one._entries) == {(HUB, "a"), (HUB, "b")}


def test_little_is_done_with_the_file(shared: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    done: Counter[str] = Counter()
    stat, replace = Path.stat, Path.replace

    def count_stat(path: Path, **options: bool) -> os.stat_result:
        done["stat"] += 1
        return stat(path, **options)

    def count_replace(path: Path, to: Path) -> Path:
        done["replace"] += 1
        return replace(path, to)

    quotas = shared.worker()
    monkeypatch.setattr(Path, "stat", count_stat)
    monkeypatch.setattr(Path, "replace", count_replace)
    for remaining in range(1000, 0, -1):
        shared.now += 0.01
        quotas.admit(HUB, "anonymous", "GET", Kind.TAG)
        get(quotas, answer(200, ratelimit_limit="1000;w=60", ratelimit_remaining=str(remaining)))
        quotas.stretch(HUB)
    assert done["stat"] <= 10 + 3
    assert done["replace"] <= 3


def test_the_file_does_not_grow(shared: Lab) -> None:
    quotas = shared.worker()
    for number in range(3 * ENTRIES_MAX):
        shared.now += 1
        get(quotas, of_hub(5, 429), f"client:{number}")
    assert shared.directory is not None
    (file,) = shared.directory.iterdir()
    assert len(decode(file.read_bytes())) == ENTRIES_MAX
    shared.now += 86_400
    get(quotas, of_hub(5, 429))
    assert decode(file.read_bytes()).keys() == {(HUB, "anonymous")}
    assert file.stat().st_mode & 0o777 == 0o600


GARBAGE = [
    *(b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"version": 2, "quotas": [1]}'),
    *(b'{"version": 1}', b'{"version": 1, "quotas": 5}', b'{"version": 1, "quotas": [1, null, {}]}'),
    b'{"version": 1, "quotas": [{"registry": "a", "credential": "b", "refused": {"x": [1, 2, 3]}}]}',
    b'{"version": 1, "quotas": [{"registry": "a", "credential": "b", "refused": {"rest": [NaN, 2, 3]}}]}',
    b'{"version": 1, "quotas": [{"registry": "a", "credential": "b", "refused": {}, "quota": [1, 9, 2, 0]}]}',
]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:40])
def test_a_file_that_is_none_is_in_nobodys_way(shared: Lab, text: bytes) -> None:
    assert shared.directory is not None
    shared.directory.mkdir()
    (shared.directory / "quotas.json").write_bytes(text)
    quotas = shared.worker()
    assert may(quotas)
    get(quotas, answer(429, retry_after="60"))
    shared.now += 1
    assert not may(shared.worker())


def test_nobody_is_blocked_for_ever_by_the_file(shared: Lab) -> None:
    assert shared.directory is not None
    shared.directory.mkdir()
    entry = QuotaEntry(blocks={Lane.MANIFESTS: Block(NOW, 1e300, 1), Lane.HEADS: Block(1e300, 1e301, 1)})
    (shared.directory / "quotas.json").write_bytes(encode({(HUB, "anonymous"): entry}))
    quotas = shared.worker()
    assert not may(quotas)
    assert may(quotas, "HEAD")
    shared.now += RETRY_MAX
    assert may(quotas)


def test_a_directory_that_can_not_be_written(shared: Lab, caplog: pytest.LogCaptureFixture) -> None:
    assert shared.directory is not None
    shared.directory.write_text("in the way")
    quotas = shared.worker()
    for _ in range(3):
        get(quotas, answer(429))
        assert not may(quotas)
        shared.now += 10
    assert sum("can't be written" in record.message for record in caplog.records) == 1


def test_what_a_killed_writer_left_is_removed(shared: Lab) -> None:
    assert shared.directory is not None
    shared.directory.mkdir()
    old, new = (shared.directory / f"quotas.json.{name}.tmp" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    shared.worker()
    assert (old.exists(), new.exists()) == (False, True)


# --- joining ---------------------------------------------------------------------------------------------

TIMES = st.integers(0, 3).map(lambda n: NOW + n)
BLOCKS = st.builds(Block, TIMES, TIMES, st.integers(0, 3))
ENTRIES = st.builds(
    QuotaEntry,
    st.none() | st.builds(Report, TIMES, st.integers(0, 3), st.just(3), st.just(60.0)),
    st.dictionaries(st.sampled_from(Lane), BLOCKS),
)


def joined(*entries: QuotaEntry) -> QuotaEntry:
    result = QuotaEntry()
    for entry in entries:
        result.join(entry)
    return result


@given(ENTRIES, ENTRIES, ENTRIES)
def test_joining_has_no_order(a: QuotaEntry, b: QuotaEntry, c: QuotaEntry) -> None:
    assert joined(a, b, c) == joined(c, b, a) == joined(joined(b, a), joined(c, a), a)


@given(st.dictionaries(st.tuples(st.text(max_size=20), st.text(max_size=20)), ENTRIES, max_size=5))
def test_what_is_written_is_read(entries: dict[tuple[str, str], QuotaEntry]) -> None:
    assert decode(encode(entries)) == entries


STEPS = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from([0.0, 0.4, 3.0]), st.sampled_from([200, 429]), st.integers(0, 9)
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """A directory for each example."""
    base = tmp_path_factory.mktemp("quotas")
    yield (base / str(number) for number in range(1_000_000))


@given(steps=STEPS)
def test_workers_agree_whatever_happens(
    places: Iterator[Path], steps: list[tuple[int, float, int, int]]
) -> None:
    lab = Lab(next(places))
    workers = [lab.worker(), lab.worker()]
    for who, passed, status, remaining in steps:
        lab.now += passed
        get(workers[who], of_hub(remaining, status), f"c{remaining % 2}")
    for _ in range(6):
        lab.now += 5
        for worker in workers:
            worker.stretch(HUB)
    one, two = workers
    assert one._entries == two._entries
    for name in ("c0", "c1"):
        assert may(one, credential=name) == may(two, credential=name)
