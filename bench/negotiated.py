"""What TLS servers and the load generator agreed on: unlike key agreements are not to be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.lab import Sample


def differing(rounds: Iterable[Sequence[Sample]]) -> str:
    """Return what a figure's name is to say where a peer agreed on its keys in another way, else "".

    A round has the subject's sample first. A side without TLS has nothing to compare; which suites were taken
    is in the table of conditions.
    """
    unlike = {
        (group(own), peer.server, group(peer))
        for own, *peers in rounds
        for peer in peers
        if own.result.tls and peer.result.tls and group(own) != group(peer)
    }
    return "".join(f" (NOT ALIKE: {own} beside {peer}'s {other})" for own, peer, other in sorted(unlike))


def group(sample: Sample) -> str:
    """The group of the key agreement: the last word of `TLSv1.3 TLS_AES_128_GCM_SHA256 x25519`."""
    return sample.result.tls.rpartition(" ")[2]


def listed(seen: Iterable[tuple[str, str]]) -> str:
    """Return one line: each server with its versions, suites and groups. `seen`: each with its server."""
    said: dict[str, set[str]] = {}
    for server, tls in seen:
        if tls:
            said.setdefault(server, set()).add(tls)
    return "; ".join(f"{server} {', '.join(sorted(tls))}" for server, tls in said.items())
