from collections.abc import Callable
from typing import Final

from regproxy.dataplane.board import Board
from regproxy.dataplane.request_ids import RequestIds
from regproxy.dataplane.tally import Tally, Use

ANSWERS_MAX: Final[int]
BODY_MAX: Final[int]
SCOPES_MAX: Final[int]
HELD_MAX: Final[int]

class Answer:
    head: Final[bytes]
    body: Final[bytes]
    owner: Final[object]
    def __init__(
        self,
        head: bytes,
        body: bytes,
        owner: object,
        tally: Tally,
        saved: bool,
        until: float,
        second: int,
        line: tuple[bytes, ...] | None,
        last: bool = False,
        image: Use | None = None,
        content: Use | None = None,
        request_id: bytes = b"",
    ) -> None: ...

class Answers:
    ids: Final[RequestIds]
    idle_timeout: Final[float]
    head_timeout: Final[float]
    open: Final[bool]
    repeated: Final[int]
    kept: Final[int]
    on_lines: Callable[[], None] | None
    def __init__(
        self, board: Board, idle_timeout: float, head_timeout: float, ids: RequestIds | None = None
    ) -> None: ...
    def scope(self, key: object) -> Scope: ...
    def begin(self) -> None: ...
    def revoke(self) -> None: ...
    def close(self) -> None: ...
    def clear(self) -> None: ...
    def take_lines(self) -> bytes: ...

class Scope:
    answers: Final[Answers]
    def __init__(self, answers: Answers) -> None: ...
    def put(self, head: bytes, answer: Answer) -> None: ...
