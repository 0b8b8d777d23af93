"""What several workers do, as one list."""

from __future__ import annotations

from regproxy.admin.endpoints.activity import merged_clients, merged_downloads
from regproxy.telemetry.snapshots import LiveClient, LiveDownload, Snapshot


def download(digest: str, waiters: int, *, follows: bool = False, total: int = 10) -> LiveDownload:
    return LiveDownload(digest, "reg.test", "a", 5, total, 1.5, waiters, 100.0, 0, follows)


def test_downloads() -> None:
    found = merged_downloads(
        [
            Snapshot(0, 1, 1.0, downloads=[download("b", 1), download("a", 0, total=-1)]),
            Snapshot(1, 2, 1.0, downloads=[download("b", 2, follows=True), download("c", 1, follows=True)]),
        ]
    )
    assert [(each.digest, each.waiters, each.total, each.worker) for each in found] == [
        ("a", 0, None, 0),
        ("b", 3, 10, 0),
    ]


def test_a_tag_of_several_repositories() -> None:
    """Each is a download of its own; what one digest is waited for counts wherever it is asked for."""

    def of(repository: str, reference: str, waiters: int, *, follows: bool = False) -> LiveDownload:
        return LiveDownload(
            *(reference, "registry-1.docker.io", repository, 5, 10, 1.5, waiters, 100.0, 0, follows),
        )

    digest = "sha256:" + "a" * 64
    found = merged_downloads(
        [
            Snapshot(0, 1, 1.0, downloads=[of("nginx", "latest", 1), of("redis", "latest", 2)]),
            Snapshot(1, 2, 1.0, downloads=[of("nginx", digest, 1)]),
            Snapshot(2, 3, 1.0, downloads=[of("redis", digest, 2, follows=True)]),
        ]
    )
    assert [(each.registry, each.repository, each.digest, each.waiters) for each in found] == [
        ("docker.io", "nginx", "latest", 1),
        ("docker.io", "nginx", digest, 3),
        ("docker.io", "redis", "latest", 2),
    ]


def test_clients() -> None:
    found = merged_clients(
        [
            Snapshot(0, 1, 1.0, clients=[LiveClient("10.0.0.1", "address", 2, 1)]),
            Snapshot(
                *(1, 2, 1.0),
                clients=[LiveClient("10.0.0.1", "address", 1, 0), LiveClient("ci", "principal", 4, 4)],
            ),
        ]
    )
    assert [(each.kind, each.name, each.connections, each.requests) for each in found] == [
        ("address", "10.0.0.1", 3, 1),
        ("principal", "ci", 4, 4),
    ]
