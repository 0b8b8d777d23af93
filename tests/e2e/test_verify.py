"""What `regproxy cache verify` has taken away is fetched again."""

from __future__ import annotations

from pathlib import Path

from tests.support.cache_command import command
from tests.support.images import digest_of
from tests.support.processes import wait_until
from tests.support.shared_proxy import BIG, BIG_PATH, Lane
from tests.support.trust import Trust


class TestProxy:
    """With workers that have the bad blob open."""

    def test_it_is_fetched_again(self, trust: Trust, tmp_path: Path) -> None:
        with Lane(tmp_path, trust) as lane:
            proxy = lane.filled(REGPROXY_WORKERS="2")
            digest = digest_of(BIG)
            path = proxy.cache_dir / "blobs" / "sha256" / digest[7:9] / digest[7:]
            with path.open("r+b") as file:
                file.write(b"rot" * 100)
            done = command(proxy.cache_dir, "verify")
            assert done.returncode == 1 and digest in done.stdout, done
            assert (proxy.cache_dir / "quarantine" / digest[7:]).read_bytes().startswith(b"rot")

            def right() -> bool:
                with proxy.client(lane.origin.authority) as client:
                    return client.get(BIG_PATH).body == BIG

            for _ in range(10):
                wait_until(right, "every worker has let go of it")
            assert lane.origin.hits[BIG_PATH] == 2
