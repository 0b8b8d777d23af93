"""Read JSON that is to be judged: one text has one meaning, or none."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def read_strictly(body: bytes, limit: int) -> Any:
    """Return the value of a JSON text (RFC 8259).

    Raises ValueError, which says what is wrong: more than `limit` bytes, no UTF-8, no JSON, nested too
    deeply, NaN or Infinity, a name twice in one object (parsers disagree about which of the two counts).
    """
    if len(body) > limit:
        raise ValueError(f"{len(body)} bytes, more than {limit}")
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        raise ValueError("no UTF-8 text") from None
    except json.JSONDecodeError:
        raise ValueError("no JSON") from None
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("JSON with a name twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"no JSON: {name[:16]}")
