"""Jobs at the end of their worker: cut by SIGTERM or SIGKILL, waited for at a reload; the records stay."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin_api import AdminApi
from tests.support.images import make_image
from tests.support.origin import Answer, Origin, Seen, blob_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy

IMAGE = make_image(size=2_000, layers=1, seed=1)


@pytest.fixture
def origin(start_origin: Callable[..., Origin], hold: threading.Event) -> Origin:
    """A registry whose layer does not come until `hold` is set."""
    origin = start_origin("reg.test")
    manifest = Answer(
        IMAGE.manifest, headers={"Content-Type": IMAGE.media_type, "Docker-Content-Digest": IMAGE.digest}
    )
    origin.on("/v2/app/manifests/1", manifest)
    for digest, body in IMAGE.blobs.items():
        origin.on(f"/v2/app/blobs/{digest}", blob_answer(digest, body))

    def late(seen: Seen) -> Answer:
        hold.wait(60)
        return blob_answer(IMAGE.layers[0], IMAGE.blobs[IMAGE.layers[0]])

    origin.on(f"/v2/app/blobs/{IMAGE.layers[0]}", late)
    return origin


def begun(proxy: Proxy, origin: Origin) -> str:
    """Begin a job that waits for the origin; return its id once it does."""
    with AdminApi(proxy) as api:
        job = api.post("warm", {"images": [{"name": f"{origin.authority}/app:1"}]})
        wait_until(lambda: origin.hits[f"/v2/app/blobs/{IMAGE.layers[0]}"], "the layer is asked for")
        wait_until(lambda: api.get(f"jobs/{job['id']}")["state"] == "running", "it runs")
    identity: str = job["id"]
    return identity


def record(proxy: Proxy, identity: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path_of(proxy, identity).read_text())
    return found


def path_of(proxy: Proxy, identity: str) -> Path:
    return proxy.cache_dir / "state" / "jobs" / f"{identity}.json"


def test_sigterm_cuts_a_job(origin: Origin, start_proxy: Callable[..., Proxy], hold: threading.Event) -> None:
    proxy = start_proxy(origin)
    identity = begun(proxy, origin)
    proxy.signal(signal.SIGTERM)
    wait_until(lambda: record(proxy, identity)["state"] == "cut", "the record says so")
    hold.set()  # its fill is given its time
    assert proxy.stop() == 1
    assert f"cut: job {identity}, warm" in proxy.log()
    again = start_proxy(origin, at=proxy.directory)
    with AdminApi(again) as api:
        (job,) = api.items("jobs")
        assert (job["id"], job["state"], job["error"]) == (
            identity,
            "cut",
            "the worker that had it has ended",
        )


def test_a_killed_worker_leaves_a_record(
    origin: Origin, start_proxy: Callable[..., Proxy], hold: threading.Event
) -> None:
    proxy = start_proxy(origin)
    identity = begun(proxy, origin)
    (worker,) = proxy.workers(1)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: worker not in proxy.workers() and proxy.ready(), "another worker has come")
    with AdminApi(proxy) as api:
        job = api.get(f"jobs/{identity}")
        assert (job["state"], job["error"]) == ("cut", "the process that had it has died")
    hold.set()


def test_a_reload_lets_it_end(
    origin: Origin, start_proxy: Callable[..., Proxy], hold: threading.Event
) -> None:
    proxy = start_proxy(origin)
    identity = begun(proxy, origin)
    (before,) = proxy.workers(1)
    proxy.signal(signal.SIGHUP)
    wait_until(lambda: len(proxy.workers()) == 2, "its successor is ready")
    with AdminApi(proxy) as api, closing(api.connect()):
        assert api.get(f"jobs/{identity}")["state"] == "running"
        hold.set()
        done = wait_until(
            lambda: (job := api.get(f"jobs/{identity}"))["state"] == "done" and job, "it has ended"
        )
        assert done["result"]["images"][0]["error"] == ""
    wait_until(lambda: before not in proxy.workers(), "the worker has ended, too")
