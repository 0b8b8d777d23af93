"""What is known of a piece of long work, from its beginning to long after its end."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

State = Literal["queued", "running", "done", "failed", "cancelled", "cut"]

OPEN: Final = frozenset({"queued", "running"})
# From each state to these: a job ends once.
_MOVES: Final[dict[str, frozenset[str]]] = {
    "queued": frozenset({"running", "cancelled", "cut", "failed"}),
    "running": frozenset({"done", "failed", "cancelled", "cut"}),
}


class Job(Struct):
    """A job. `what`: what it was asked for; `by`: by whom. Times: epoch, 0 for what has not come yet.

    `done` of `total`, in the unit that `unit` says; total 0: not known. `result`: of a job that has come to
    an end, also of one that was stopped before all was done. `error`: why it has failed, or was cut.
    """

    id: str
    kind: str
    by: str
    what: dict[str, Any] = field(default_factory=dict)
    state: State = "queued"
    created_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    done: int = 0
    total: int = 0
    unit: str = ""
    result: dict[str, Any] | None = None
    error: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in OPEN

    def move(self, state: State, now: float) -> None:
        """Enter another state. Raises ValueError where that does not follow."""
        if state not in _MOVES.get(self.state, ()):
            raise ValueError(f"job {self.id} is {self.state}: it can't be {state}")
        self.state = state
        if state == "running":
            self.started_at = now
        else:
            self.ended_at = now


def encode(job: Job) -> bytes:
    """Return a job's text on disk."""
    return msgspec.json.encode(job)


def decode(text: bytes) -> Job | None:
    """Return the job of a text, None where it is none."""
    try:
        told = json.loads(text)
        known = set(Job.__struct_fields__)
        return Job(**{name: value for name, value in told.items() if name in known})
    except (ValueError, TypeError, AttributeError):
        return None
