"""Parallel ranges, straight and through the proxy: `python -m tests.load.parallel_ranges --pairs 5`.

As containerd 2.1 pulls with `concurrent_layer_fetch_buffer`: several fetchers take the next chunk each, ask
for an open range on a connection of their own, and drop that after the chunk. The origin gives each
connection so many bytes a second. What the proxy takes, cold, is compared with what it takes without, turn by
turn. The bytes are checked by their digest.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.support.client import Client
from tests.support.origin import Origin, blob_answer
from tests.support.proxy import Proxy
from tests.support.trust import Trust

SIZE = 40_000_000
Connect = Callable[[], Client]


def fetch(connect: Connect, path: str, start: int, stop: int) -> bytes:
    """Return bytes [start, stop) of what a range that is open at its end brings; then leave."""
    client = connect()
    try:
        client.ask("GET", path, {"Range": f"bytes={start}-"})
        head = client.read_head()
        assert head.status == 206, head.status
        return client.read(stop - start)
    finally:
        client.reset()


def pull(connect: Connect, path: str, fetchers: int, chunk: int) -> float:
    """Pull all of it by so many fetchers; return the seconds that it took."""
    starts, lock, found = iter(range(0, SIZE, chunk)), threading.Lock(), dict[int, bytes]()

    def work() -> None:
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            found[start] = fetch(connect, path, start, min(start + chunk, SIZE))

    threads = [threading.Thread(target=work) for _ in range(fetchers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    digest = hashlib.sha256(b"".join(found[start] for start in sorted(found))).hexdigest()
    assert path.endswith(digest), "wrong bytes"
    return took


def pairs(count: int, fetchers: int, chunk: int, rate: float) -> Iterator[tuple[float, float]]:
    """Yield the seconds of a pull straight and of one through the proxy, of content that is new each time."""
    noise = random.Random(7).randbytes(SIZE - 8)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parallel-ranges-")))
        trust = Trust(work / "trust")
        origin = stack.enter_context(Origin(trust, "reg.test"))
        proxy = stack.enter_context(
            Proxy(
                work / "proxy",
                {"REGPROXY_DEBUG": "0"},
                registries=(origin.authority,),
                resolve=origin.resolve,
                ca=trust.path,
            )
        )
        context = ssl.create_default_context(cafile=str(trust.path))

        def straight() -> Client:
            client = Client.connect(origin.address, authority=origin.authority)
            client.start_tls("reg.test", None, context=context)
            return client

        def through() -> Client:
            return proxy.client(origin.authority)

        for number in range(2 * count):
            body = number.to_bytes(8, "big") + noise
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            path = f"/v2/app/blobs/{digest}"
            origin.on(path, blob_answer(digest, body, rate=rate))
            if number % 2 == 0:
                took = pull(straight, path, fetchers, chunk)
            else:
                yield took, pull(through, path, fetchers, chunk)


def main() -> int:
    """Print the medians and their ratio; 1: through the proxy it took longer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--fetchers", type=int, default=8)
    parser.add_argument("--chunk", type=int, default=2 << 20, help="bytes")
    parser.add_argument("--rate", type=float, default=3e6, help="bytes/s of a connection to the origin")
    options = parser.parse_args()
    # The first pair is a warm-up.
    found = list(pairs(options.pairs + 1, options.fetchers, options.chunk, options.rate))[1:]
    ratios = sorted(through / straight for straight, through in found)
    straight, through = (statistics.median(times) for times in zip(*found, strict=True))
    ratio = statistics.median(ratios)
    print(f"straight {straight:.2f} s, through {through:.2f} s; ratio {ratio:.2f}", end=" ")
    print(f"({ratios[0]:.2f}..{ratios[-1]:.2f}, {len(found)} pairs)")
    return 0 if ratio <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
