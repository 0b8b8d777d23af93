"""Large blobs are fetched in several places at once: what is asked for first, and every byte once."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client
from tests.support.cold_blobs import MIB, SIZE, Cold, forget, origin, span
from tests.support.origin import Answer, Origin, Seen
from tests.support.processes import wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy
from tests.support.small_filesystems import free, small_disk
from tests.support.trust import Trust
from tests.support.two_workers import Pair

__all__ = ["forget", "origin"]  # fixtures
CHUNK = 8 * MIB  # containerd 2.1: `chunkSize` of a layer that is fetched by several connections
BLOCK = 65_536  # in which it is known what is there
# What a connection that is broken off may bring unasked for: it is in the kernel's buffers already.
CUT = sum(int(Path(f"/proc/sys/net/ipv4/tcp_{way}mem").read_text().split()[2]) for way in "rw")
PACED = MIB  # the same where the origin is slower than we are
Script = Callable[[Seen], Answer]
StartProxy = Callable[..., Proxy]


@pytest.fixture(scope="module")
def proxies(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    with Proxies(tmp_path_factory, trust, origin) as proxies:
        yield proxies


def containerd(client: Client, blob: Cold, start: int) -> bytes:
    """One of its connections: all from `start` on is asked for, and 8 MiB of that are read."""
    client.ask("GET", blob.path, [("Range", f"bytes={start}-")])
    head = client.read_head()
    assert head.status == 206, head
    assert head.get("Content-Range") == f"bytes {start}-{len(blob.body) - 1}/{len(blob.body)}"
    data = client.read(min(CHUNK, len(blob.body) - start))
    client.reset()
    return data


def pull_by_chunks(connect: Callable[[], Client], blob: Cold, clients: int = 3) -> None:
    """So many containerds at once, each with a connection for each chunk; every byte must be right."""
    starts = list(range(0, len(blob.body), CHUNK)) * clients
    connections = [connect() for _ in starts]
    wrong: list[int] = []

    def fetch(client: Client, start: int) -> None:
        if containerd(client, blob, start) != blob.body[start : start + CHUNK]:
            wrong.append(start)

    at_once(
        *(
            lambda client=client, start=start: fetch(client, start)
            for client, start in zip(connections, starts, strict=True)
        )
    )
    assert wrong == []


def at_once(*work: Callable[[], object]) -> None:
    """Do all of it in threads; what one of them raises is raised here."""
    failed: list[BaseException] = []

    def do(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=do, args=(job,)) for job in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


class TestContainerd:
    """Parallel ranges that are open to the end, each dropped after 8 MiB."""

    @pytest.mark.parametrize("size", [SIZE, 40 * MIB + 12_345])
    @pytest.mark.parametrize(("streams", "twice"), [("1", 0), ("4", CUT)])
    def test_every_byte_is_fetched_once(
        self, streams: str, twice: int, size: int, origin: Origin, proxies: Proxies, stack: ExitStack
    ) -> None:
        """But for what was on its way in a body that was too slow for who waited (test and origin share cores
        here, so some are)."""
        proxy, blob = proxies(REGPROXY_FILL_STREAMS=streams), Cold(origin, size)
        pull_by_chunks(lambda: stack.enter_context(proxy.client(origin.authority)), blob)
        proxy.wait_kept(blob.digest)
        sent = blob.sent
        assert size <= sent <= size + twice
        with proxy.client(origin.authority) as again:
            assert blob.arrived(again.get(blob.path))
        assert blob.sent == sent

    def test_over_two_workers(self, origin: Origin, proxies: Proxies, stack: ExitStack) -> None:
        proxy, blob = proxies(REGPROXY_WORKERS="2"), Cold(origin)
        pair = Pair(proxy, origin.authority)
        workers = itertools.cycle(pair.pids())
        pull_by_chunks(lambda: stack.enter_context(pair.client(next(workers))), blob)
        proxy.wait_kept(blob.digest)
        assert SIZE <= blob.sent <= SIZE + CUT

    def test_only_one_chunk(self, origin: Origin, proxies: Proxies) -> None:
        """Who has asked for it leaves; all of it is kept for the next."""
        proxy, blob = proxies(), Cold(origin)
        client = proxy.client(origin.authority)
        assert containerd(client, blob, 3 * CHUNK + 7) == blob.body[3 * CHUNK + 7 : 4 * CHUNK + 7]
        proxy.wait_kept(blob.digest)
        assert blob.ranges[0] == f"bytes={3 * CHUNK}-{4 * CHUNK - 1}"
        assert SIZE <= blob.sent <= SIZE + CUT

    def test_the_same_connection_goes_on(self, origin: Origin, proxies: Proxies) -> None:
        """Closed ranges, one after another, the last first."""
        proxy, blob = proxies(), Cold(origin)
        with proxy.client(origin.authority) as client:
            for start in range(SIZE - CHUNK, -1, -CHUNK):
                reply = client.get(blob.path, [("Range", f"bytes={start}-{start + CHUNK - 1}")])
                assert (reply.status, reply.body) == (206, blob.body[start : start + CHUNK])
        proxy.wait_kept(blob.digest)
        assert SIZE <= blob.sent <= SIZE + CUT

    def test_of_ranges_that_meet_no_border(self, origin: Origin, proxies: Proxies) -> None:
        proxy, blob, chance = proxies(), Cold(origin), random.Random(5)
        spans = [sorted(chance.sample(range(SIZE), 2)) for _ in range(12)]

        def fetch(start: int, stop: int) -> None:
            with proxy.client(origin.authority) as client:
                reply = client.get(blob.path, [("Range", f"bytes={start}-{stop - 1}")])
                assert reply.body == blob.body[start:stop]

        at_once(*(lambda span=span: fetch(*span) for span in spans))
        proxy.wait_kept(blob.digest)
        assert SIZE <= blob.sent <= SIZE + CUT

    def test_a_piece_that_is_on_its_way_is_not_cut(self, origin: Origin, proxies: Proxies) -> None:
        """Not even where other streams come to help, as each is slow."""
        proxy, blob = proxies(), Cold(origin, script=lambda blob, seen: blob.answer(rate=4 * MIB))
        with proxy.client(origin.authority) as client:
            client.get(blob.path, [("Range", f"bytes={CHUNK}-{2 * CHUNK - 1}")])
        proxy.wait_kept(blob.digest)
        assert blob.sent == SIZE
        for seen in blob.requests:
            start, _, last = (seen.get("range") or "").removeprefix("bytes=").partition("-")
            assert seen.sent == int(last or SIZE - 1) + 1 - int(start)

    def test_behind_the_end(self, origin: Origin, proxies: Proxies) -> None:
        proxy, blob = proxies(), Cold(origin)
        with proxy.client(origin.authority) as client:
            reply = client.get(blob.path, [("Range", f"bytes={SIZE}-")])
            assert (reply.status, reply.get("Content-Range")) == (416, f"bytes */{SIZE}")
        proxy.wait_kept(blob.digest)

    def test_of_an_origin_that_does_not_say_how_long_it_is(self, origin: Origin, proxies: Proxies) -> None:
        """RFC 9110 14.4: "bytes 0-8388607/*"."""

        def script(blob: Cold, seen: Seen) -> Answer:
            if seen.get("range") is None:
                return blob.answer()
            first, _, last = (seen.get("range") or "").removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1 if last else len(blob.body), len(blob.body))
            span = f"bytes {first}-{stop - 1}/*"
            return Answer(blob.body[int(first) : stop], 206, {"Content-Range": span})

        proxy, blob = proxies(), Cold(origin, 20 * MIB, script)
        client = proxy.client(origin.authority)
        client.ask("GET", blob.path, [("Range", "bytes=0-")])
        assert client.read_head().status == 206
        assert client.read(CHUNK) == blob.body[:CHUNK]
        client.reset()
        proxy.wait_kept(blob.digest)


FETCHERS, PART = 8, 2 * MIB  # containerd 2.1 as it may be set: each fetcher reads 2 MiB of a connection
PARALLEL = 24 * MIB


def fetch_in_parallel(proxy: Proxy, origin: Origin, blob: Cold, *, closed: bool = False) -> None:
    """Eight fetchers, each with a connection for each 2 MiB that it takes next; every byte must be right."""
    starts, lock, got = iter(range(0, PARALLEL, PART)), threading.Lock(), {}

    def work() -> None:
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            last = f"{start + PART - 1}" if closed else ""
            with proxy.client(origin.authority) as client:
                client.ask("GET", blob.path, [("Range", f"bytes={start}-{last}")])
                assert client.read_head().status == 206
                got[start] = client.read(PART)
                client.reset()

    at_once(*[work] * FETCHERS)
    assert b"".join(got[start] for start in sorted(got)) == blob.body
    proxy.wait_kept(blob.digest)


def busy(blob: Cold) -> int:
    """How many answers the origin is giving."""
    return sum(not seen.done.is_set() for seen in blob.requests)


class TestParallelRanges:
    """As many connections as there are places that clients wait for."""

    @pytest.mark.parametrize("closed", [False, True])
    @pytest.mark.parametrize(("setting", "most"), [("1", 2), ("2", 4), ("4", 8), ("16", 8)])
    def test_as_many_as_are_waited_for(
        self, setting: str, most: int, closed: bool, origin: Origin, proxies: Proxies
    ) -> None:
        """No answer goes on before so many were asked for; and while none goes on there are no more."""
        go, counts, proxy = threading.Event(), [], proxies(REGPROXY_FILL_STREAMS=setting)

        def script(blob: Cold, seen: Seen) -> Answer:
            if not go.is_set():
                counts.append(busy(blob))
                if counts[-1] == most:
                    wait_until(lambda: proxy.metric("regproxy_fill_waiters") == FETCHERS, "all wait")
                    go.set()
            return blob.answer(hold_at=2 * BLOCK, hold=go, rate=4 * RATE)

        blob = Cold(origin, PARALLEL, script)
        fetch_in_parallel(proxy, origin, blob, closed=closed)
        assert max(counts) == most
        assert PARALLEL <= blob.sent <= PARALLEL + CUT

    def test_a_slow_origin_sends_next_to_nothing_twice(self, origin: Origin, proxies: Proxies) -> None:
        blob = Cold(origin, PARALLEL, lambda blob, seen: blob.answer(rate=3 * MIB))
        fetch_in_parallel(proxies(REGPROXY_FILL_STREAMS="4"), origin, blob)
        assert PARALLEL <= blob.sent <= PARALLEL + 2 * PACED
        assert len(blob.requests) <= 4 * PARALLEL // PART

    def test_an_origin_without_ranges_is_asked_once(self, origin: Origin, proxies: Proxies) -> None:
        proxy = proxies(REGPROXY_FILL_STREAMS="4")
        blob = Cold(origin, PARALLEL, lambda blob, seen: blob.answer(ranges=False, rate=2 * RATE))
        fetch_in_parallel(proxy, origin, blob)
        assert len(blob.requests) == 1
        assert blob.sent == PARALLEL

    @pytest.mark.parametrize("refusal", [Answer(cut_at=-1, cut=End.RST), Answer(b"{}", 429)])
    @pytest.mark.parametrize("limit", [1, 4, 6])
    def test_an_origin_that_minds_their_number(
        self, limit: int, refusal: Answer, origin: Origin, proxies: Proxies
    ) -> None:
        """Nothing goes on before one too many was asked for."""
        refused: list[Seen] = []
        go = threading.Event()

        def script(blob: Cold, seen: Seen) -> Answer:
            if busy(blob) > limit:
                refused.append(seen)
                go.set()
                return refusal
            return blob.answer(hold_at=2 * BLOCK, hold=go, rate=RATE)

        # What one test is refused must not be remembered in the next.
        proxy = proxies(REGPROXY_FILL_STREAMS="4", HOSTNAME=f"minds-{limit}-{refusal.status}")
        blob = Cold(origin, PARALLEL, script)
        fetch_in_parallel(proxy, origin, blob)
        assert 0 < len(refused) < 3 * FETCHERS
        assert blob.sent <= PARALLEL + 2 * PACED

    def test_an_origin_that_leaves_one_without_an_answer(self, origin: Origin, proxies: Proxies) -> None:
        """Its chunk is asked for once more; until then that client alone waits.

        Not the first one, whoever that comes from: its head says how long the blob is, so all wait for it.
        """
        never, silent = threading.Event(), list[Seen]()

        def script(blob: Cold, seen: Seen) -> Answer:
            first, _ = span(blob, seen)
            if not silent and len(blob.requests) > 1 and first >= 4 * PART:
                silent.append(seen)
                return blob.answer(hold_at=-1, hold=never)
            return blob.answer(rate=RATE)

        blob = Cold(origin, PARALLEL, script)
        try:
            fetch_in_parallel(proxies(REGPROXY_FILL_STREAMS="4"), origin, blob)
        finally:
            never.set()
        start = span(blob, silent[0])[0]
        assert [span(blob, seen)[0] for seen in blob.requests].count(start) == 2

    def test_clients_that_leave(self, origin: Origin, proxies: Proxies, stack: ExitStack) -> None:
        """What they have asked for comes nevertheless, all of it, and they hold up nobody."""
        go, proxy = threading.Event(), proxies(REGPROXY_FILL_STREAMS="4")
        blob = Cold(origin, PARALLEL, lambda blob, seen: blob.answer(hold_at=BLOCK, hold=go, rate=4 * RATE))
        for start in range(0, PARALLEL, PART):
            client = stack.enter_context(proxy.client(origin.authority))
            client.ask("GET", blob.path, [("Range", f"bytes={start}-")])
            if start == 0:
                assert client.read_head().status == 206
            client.reset()
        go.set()
        proxy.wait_kept(blob.digest)
        assert PARALLEL <= blob.sent <= PARALLEL + CUT


class TestOrder:
    """What somebody waits for comes before what nobody waits for yet."""

    @pytest.mark.parametrize("streams", ["1", "4"])
    def test_a_range_far_ahead_of_a_slow_download(
        self, streams: str, origin: Origin, proxies: Proxies, stack: ExitStack
    ) -> None:
        go, proxy = threading.Event(), proxies(REGPROXY_FILL_STREAMS=streams)

        def script(blob: Cold, seen: Seen) -> Answer:
            return blob.answer(**({} if seen.get("range") else {"hold_at": MIB, "hold": go}))

        blob = Cold(origin, script=script)
        one, two = (stack.enter_context(proxy.client(origin.authority)) for _ in range(2))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        assert one.read(MIB // 2) == blob.body[: MIB // 2]
        start = 48 * MIB + 5
        two.ask("GET", blob.path, [("Range", f"bytes={start}-")])
        assert two.read_head().status == 206
        assert two.read(CHUNK // 2) == blob.body[start : start + CHUNK // 2]
        assert not go.is_set()
        go.set()
        assert one.read(SIZE - MIB // 2) == blob.body[MIB // 2 :]
        assert two.read(SIZE - start - CHUNK // 2) == blob.body[start + CHUNK // 2 :]
        proxy.wait_kept(blob.digest)
        assert SIZE <= blob.sent <= SIZE + CUT

    def test_in_another_worker(self, origin: Origin, proxies: Proxies, stack: ExitStack) -> None:
        go, proxy = threading.Event(), proxies(REGPROXY_WORKERS="2")

        def script(blob: Cold, seen: Seen) -> Answer:
            return blob.answer(**({} if seen.get("range") else {"hold_at": MIB, "hold": go}))

        blob, pair = Cold(origin, script=script), Pair(proxy, origin.authority)
        one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        start = 48 * MIB + 5
        two.ask("GET", blob.path, [("Range", f"bytes={start}-")])
        assert two.read_head().status == 206
        assert two.read(CHUNK // 2) == blob.body[start : start + CHUNK // 2]
        assert not go.is_set()
        go.set()
        assert one.read(SIZE) == blob.body
        assert two.read(SIZE - start - CHUNK // 2) == blob.body[start + CHUNK // 2 :]
        proxy.wait_kept(blob.digest)

    def test_a_range_a_little_ahead_is_waited_for(
        self, origin: Origin, proxies: Proxies, stack: ExitStack
    ) -> None:
        go, proxy = threading.Event(), proxies(REGPROXY_FILL_STREAMS="1")
        blob = Cold(origin, script=lambda blob, seen: blob.answer(hold_at=MIB, hold=go))
        one, two = (stack.enter_context(proxy.client(origin.authority)) for _ in range(2))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        two.ask("GET", blob.path, [("Range", f"bytes={9 * MIB}-")])
        assert two.read_head().status == 206
        wait_until(lambda: proxy.metric("regproxy_fill_waiters") == 2, "both wait")
        go.set()
        assert two.read(SIZE - 9 * MIB) == blob.body[9 * MIB :]
        assert one.read(SIZE) == blob.body
        assert blob.ranges == [None]
        assert blob.sent == SIZE

    def test_a_client_that_asks_again_on_the_same_connection(
        self, origin: Origin, proxies: Proxies, stack: ExitStack
    ) -> None:
        """Its answer is over with its last byte, whatever is lacking behind that."""
        go, proxy = threading.Event(), proxies()

        def script(blob: Cold, seen: Seen) -> Answer:
            far = (seen.get("range") or "").startswith(f"bytes={32 * MIB}-")
            return blob.answer(**({} if far else {"hold_at": MIB, "hold": go}))

        blob = Cold(origin, script=script)
        one, two = (stack.enter_context(proxy.client(origin.authority)) for _ in range(2))
        one.ask("GET", blob.path)
        assert one.read_head().status == 200
        for _ in range(2):
            reply = two.get(blob.path, [("Range", f"bytes={32 * MIB}-{40 * MIB - 1}")])
            assert reply.body == blob.body[32 * MIB : 40 * MIB]
        assert not go.is_set()
        go.set()
        assert one.read(SIZE) == blob.body


RATE = 6 * MIB  # bytes/s of each connection: slow enough for others to join
SLOW = 24 * MIB


class TestStreams:
    """An origin that gives each connection so much: several are more."""

    def test_several(self, origin: Origin, proxies: Proxies) -> None:
        proxy = proxies(REGPROXY_FILL_STREAMS="4")
        blob = Cold(origin, SLOW, lambda blob, seen: blob.answer(rate=RATE))
        with proxy.client(origin.authority) as client:
            assert blob.arrived(client.get(blob.path))
        assert 1 < len({seen.connection for seen in blob.requests}) <= 5
        assert SLOW <= blob.sent <= SLOW + PACED
        proxy.wait_kept(blob.digest)

    def test_never_more_than_that(self, origin: Origin, proxies: Proxies) -> None:
        proxy, open_, most = proxies(REGPROXY_FILL_STREAMS="2"), set(), []
        blob = Cold(origin, SLOW, lambda blob, seen: blob.answer(rate=RATE))

        def look() -> bool:
            busy = {seen.connection for seen in blob.requests if not seen.done.is_set()}
            open_.update(busy)
            most.append(len(busy))
            return blob.digest in proxy.blobs()

        with proxy.client(origin.authority) as client:
            client.ask("GET", blob.path)
            reading = threading.Thread(target=lambda: most.append(client.read_reply().complete))
            reading.start()
            wait_until(look, "it is kept")
            reading.join(20)
        # The one that was cut may be seen as open a moment longer.
        assert max(most) <= 3
        assert len(open_) > 1

    def test_one(self, origin: Origin, proxies: Proxies) -> None:
        proxy = proxies(REGPROXY_FILL_STREAMS="1")
        blob = Cold(origin, SLOW, lambda blob, seen: blob.answer(rate=RATE))
        with proxy.client(origin.authority) as client:
            assert blob.arrived(client.get(blob.path))
        assert blob.ranges == [None]
        assert blob.sent == SLOW

    @pytest.mark.parametrize("said", [None, "none"])
    def test_an_origin_without_ranges(self, said: str | None, origin: Origin, proxies: Proxies) -> None:
        """It is asked for one, sends all of it, and that is given up again: the first goes on to the end."""

        def script(blob: Cold, seen: Seen) -> Answer:
            headers = {"Docker-Content-Digest": blob.digest, **({"Accept-Ranges": said} if said else {})}
            return Answer(blob.body, headers=headers, ranges=False, rate=RATE)

        proxy, blob = proxies(REGPROXY_FILL_STREAMS="4"), Cold(origin, SLOW, script)
        with proxy.client(origin.authority) as client:
            assert blob.arrived(client.get(blob.path))
        assert blob.sent <= SLOW + 4 * PACED
        proxy.wait_kept(blob.digest)

    def test_ranges_of_an_origin_without(self, origin: Origin, proxies: Proxies, stack: ExitStack) -> None:
        proxy, blob = proxies(), Cold(origin, script=lambda blob, seen: blob.answer(ranges=False))
        pull_by_chunks(lambda: stack.enter_context(proxy.client(origin.authority)), blob, clients=1)
        proxy.wait_kept(blob.digest)
        assert blob.sent <= SIZE + 9 * CUT

    @pytest.mark.parametrize("retry_after", [None, "120"])
    @pytest.mark.parametrize("status", [429, 503, 403])
    def test_an_origin_that_minds(
        self, status: int, retry_after: str | None, origin: Origin, proxies: Proxies
    ) -> None:
        """All but the first connection are refused: the pull goes on with that one."""

        def script(blob: Cold, seen: Seen) -> Answer:
            if seen is blob.requests[0]:
                return blob.answer(rate=RATE)
            return Answer(b"{}", status, {"Retry-After": retry_after} if retry_after else {})

        # What one test is refused must not be remembered in the next.
        proxy = proxies(REGPROXY_FILL_STREAMS="4", HOSTNAME=f"{status}-{retry_after}")
        blob = Cold(origin, SLOW, script)
        with proxy.client(origin.authority) as client:
            assert blob.arrived(client.get(blob.path))
        proxy.wait_kept(blob.digest)
        assert blob.requests[0].sent == SLOW

    def test_an_origin_that_minds_several_at_a_time(self, origin: Origin, proxies: Proxies) -> None:
        """One connection at a time is fine, two are not."""

        def script(blob: Cold, seen: Seen) -> Answer:
            if any(other is not seen and not other.done.is_set() for other in blob.requests):
                return Answer(b"{}", 429)
            return blob.answer(rate=RATE)

        proxy, blob = proxies(REGPROXY_FILL_STREAMS="4", HOSTNAME="several"), Cold(origin, SLOW, script)
        with proxy.client(origin.authority) as client:
            assert blob.arrived(client.get(blob.path))
        proxy.wait_kept(blob.digest)
        assert blob.sent <= SLOW + PACED

    def test_one_of_several_that_breaks(self, origin: Origin, proxies: Proxies) -> None:
        broken = threading.Event()

        def script(blob: Cold, seen: Seen) -> Answer:
            if seen.get("range") and not broken.is_set():
                broken.set()
                return blob.answer(rate=RATE, cut_at=MIB + 100)
            return blob.answer(rate=RATE)

        proxy, blob = proxies(REGPROXY_FILL_STREAMS="4"), Cold(origin, SLOW, script)
        with proxy.client(origin.authority) as client:
            assert blob.arrived(client.get(blob.path))
        assert broken.is_set()
        proxy.wait_kept(blob.digest)
        assert blob.sent <= SLOW + PACED

    def test_one_of_several_that_sends_something_else(self, origin: Origin, proxies: Proxies) -> None:
        """The digest finds it, and nothing of it is kept."""

        def script(blob: Cold, seen: Seen) -> Answer:
            return blob.answer(rate=RATE, wrong_at=SLOW - 3 * MIB if seen.get("range") else None)

        proxy, blob = proxies(REGPROXY_FILL_STREAMS="4"), Cold(origin, SLOW, script)
        with proxy.client(origin.authority) as client:
            assert not client.get(blob.path).complete
        origin.on(blob.path, blob.answer())
        with proxy.client(origin.authority) as client:
            assert blob.arrived(client.get(blob.path))
        proxy.wait_kept(blob.digest)


class TestDisk:
    """A disk that is full in the middle of it."""

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_the_pull_goes_on(
        self, workers: str, origin: Origin, start_proxy: StartProxy, tmp_path: Path, stack: ExitStack
    ) -> None:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 40 * MIB))
        proxy = start_proxy(
            origin,
            REGPROXY_CACHE_DIR=str(disk / "cache"),
            REGPROXY_MIN_FREE="0",
            REGPROXY_WORKERS=workers,
        )
        proxy.cache_dir = disk / "cache"
        try:
            blob, got = Cold(origin), {}
            clients = [stack.enter_context(proxy.client(origin.authority)) for _ in range(6)]

            def fetch(number: int, start: int) -> None:
                headers = [("Range", f"bytes={start}-")] if start else []
                got[number] = clients[number].get(blob.path, headers)

            starts = [0, 0, 16 * MIB, 32 * MIB, 48 * MIB, 60 * MIB]
            at_once(*(lambda n=n, start=start: fetch(n, start) for n, start in enumerate(starts)))
            for number, start in enumerate(starts):
                assert got[number].complete, (number, proxy.log())
                assert got[number].body == blob.body[start:]
            assert proxy.metric("regproxy_store_failures_total", reason="ENOSPC") >= 1
            wait_until(lambda: free(disk) > 30 * MIB, "the part's space is free")
            assert blob.digest not in proxy.blobs()
            small = Cold(origin, MIB)
            assert small.arrived(clients[0].get(small.path))
            proxy.wait_kept(small.digest)
        finally:
            proxy.stop()
