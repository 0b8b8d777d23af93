"""A small run, the same each time: several peers, growth curves, all kinds of targets, a void scenario."""

from __future__ import annotations

from bench.figures import Figure, Side, Target
from bench.results import Results

NGINX = Side("nginx", (0.8, 0.8, 0.9, 1.0, 0.8))
SQUID = Side("squid", (2.0, 2.1, 2.2, 2.3, 2.4))


def at_most(limit: float, of: str = "value", peer: str = "", openssl: str = "") -> Target:
    return Target("ratio" if of == "ratio" else "value", "<=", limit, peer, openssl)


def curve(name: str, unit: str, *medians: float) -> list[Figure]:
    return [
        Figure(
            "G1",
            name,
            unit,
            (value, value * 1.1),
            (Side("nginx", (value * 2, value * 2)),),
            (),
            "connections",
            at,
        )
        for value, at in zip(medians, (1, 10, 100, 1000), strict=True)
    ]


def small_run() -> Results:
    return Results(
        mode="short",
        subject="regproxy",
        workers=1,
        started="2026-01-02T03:04:05+00:00",
        command="python -m bench.run short",
        machine={"CPU": "Some CPU, 2 cores", "CPU flags": "aes vaes", "memory": "8 GB", "kernel": "6.1"},
        versions={"Python": "3.11.2", "OpenSSL": "OpenSSL 3.0.19 27 Jan 2026", "nginx": "nginx/1.22.1"},
        speeds={"aes-128-gcm": 4.0, "sha256": 1.4},
        servers=["nginx -p peer"],
        loads=["loadgen --path /v2/a|b"],
        notes=["the generator took one core"],
        figures=[
            Figure(
                *("S1", "cached blob, CPU", "s/GB", (0.5, 0.52, 0.54, 0.56, 0.58), (NGINX, SQUID)),
                (at_most(0.4, openssl="3.5"), at_most(0.7, "ratio"), at_most(0.2, "ratio", "squid")),
            ),
            Figure("S2", "cached manifest, CPU", "us/request", (10, 11, 12, 13, 14), (), (at_most(12),)),
            Figure("S3", "new connection, CPU", "us", (500.0,) * 4, (), (at_most(600),)),
            Figure("S4", "cold blob, CPU", "s/GB", (2.5,) * 5, (), (at_most(1, "ratio", "ats"),)),
            Figure("S9", "idle connection, memory", "kB", (20.0,) * 5),
            Figure("X1", "of no question", "", (1.0,)),
            *curve("cached manifest, CPU", "us/request", 20, 12, 11, 11),
            *curve("handshakes", "s", 0.001, 0.01, 0.1, 1),
        ],
        samples=[{"scenario": "S1", "load": 0, "server": "regproxy", "cpu": 1.0, "foreign": 0.25}],
        failed={"S5": "status 502\n  loadgen --path /x"},
    )
