"""What TLS servers and the load generator agreed on: unlike key agreements are not to be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.lab import Sample


def differing(rounds: Iterable[Sequence[Sample]]) -> str:
    """Return what a figure's name is to say where a peer agreed on another TLS than the subject, else "".

    A round has the subject's sample first. A side without TLS has nothing to compare.
    """
    unlike = {
        (own.result.tls, peer.server, peer.result.tls)
        for own, *peers in rounds
        for peer in peers
        if own.result.tls and peer.result.tls and own.result.tls != peer.result.tls
    }
    return "".join(f" (NOT ALIKE: {own} beside {peer}'s {other})" for own, peer, other in sorted(unlike))


def listed(samples: Iterable[Sample]) -> str:
    """Return one line: the versions, suites and groups of each server."""
    said: dict[str, set[str]] = {}
    for sample in samples:
        if sample.result.tls:
            said.setdefault(sample.server, set()).add(sample.result.tls)
    return "; ".join(f"{server} {', '.join(sorted(tls))}" for server, tls in said.items())
