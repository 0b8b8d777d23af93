"""Define what is counted and noted of the use that is made of the proxy."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from msgspec import Struct, field

from regproxy.telemetry.usage.counts import Counts

Window = Literal["24h", "7d", "30d", "all"]

HOUR: Final = 3600
DAY: Final = 86_400
EVER: Final = 0  # the span of the one slot that never ends

# The slots (length in seconds, how many up to now) that make a window. The latest one has just begun, so a
# window is up to one slot shorter than it is called.
WINDOWS: Final[dict[Window, tuple[int, int]]] = {
    "24h": (HOUR, 24),
    "7d": (DAY, 7),
    "30d": (DAY, 30),
    "all": (EVER, 1),
}


# Plain tuples, as some are made for each request.
#
# Registry, its port, repository, reference; "" as reference is for the repository's layers and
# configurations.
Image = tuple[str, int, str, str]
# Kind and name of a client's principal; without a principal ("anonymous") its address is the name.
Client = tuple[str, str]


class ImageUse(Struct, frozen=True):
    """What was pulled of an image, a repository if `reference` is "".

    `pulls`: GETs of a manifest that were answered with it, or with 304. `sent`, `saved`: bytes of bodies, and
    those of them that came from the cache. `last`: the last use, epoch.
    """

    registry: str
    port: int
    repository: str
    reference: str
    pulls: int
    sent: int
    saved: int
    last: float


class ClientUse(Struct, frozen=True):
    """What a client has asked for: `requests` of all kinds to registries, and bytes as in ImageUse."""

    kind: str
    name: str
    requests: int
    sent: int
    saved: int
    last: float


class TagMove(NamedTuple):
    """A tag that was found to be another digest than before. `at`: when, epoch."""

    at: float
    registry: str
    port: int
    repository: str
    tag: str
    old: str
    new: str


class Refusal(NamedTuple):
    """A request that was refused. `at`: epoch; `kind`: rule, access or login; `rule`: its name, "" for none.

    `client`, `client_kind`: as in Client; `address`: where it came from. `reference`: a tag or digest.
    """

    at: float
    client_kind: str
    client: str
    address: str
    registry: str
    port: int
    repository: str
    reference: str
    kind: str
    rule: str
    message: str


class Batch(Struct):
    """What one process has counted and noted since the last batch. `now`: its end, epoch."""

    now: float
    images: dict[Image, Counts] = field(default_factory=dict)
    clients: dict[Client, Counts] = field(default_factory=dict)
    moves: list[TagMove] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.images or self.clients or self.moves or self.refusals)
