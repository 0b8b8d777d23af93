"""Build the body of an error answer (OCI distribution spec, "Error Codes")."""

from __future__ import annotations

import json


def error_body(code: str, message: str, detail: object = None) -> bytes:
    """Return the JSON body of an error (OCI distribution spec, "Error Codes"); `detail` must be
    JSON-serialisable.
    """
    error: dict[str, object] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    return json.dumps({"errors": [error]}, separators=(",", ":")).encode()
