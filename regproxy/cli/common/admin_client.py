"""Ask the admin port of the proxy that runs on this machine."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from regproxy.cache import layout
from regproxy.config.settings import Config
from regproxy.core.addresses import reachable_at
from regproxy.core.errors import RegproxyError

_PATIENCE: Final = 30.0  # seconds
_ANSWER_MAX: Final = 64 * 1024 * 1024  # bytes


class NotRunning(RegproxyError):
    """Nobody answers at the admin port."""


class Refused(RegproxyError):
    """The admin port has answered with a problem."""


class AdminClient:
    """Asks with a token of this machine. Raises NotRunning where nobody answers, Refused."""

    def __init__(self, config: Config, root: Path, *, writes: bool) -> None:
        """`root`: of the cache, where the tokens are if no setting names their files.

        `writes`: with the token for everything, not the one for reading alone. Where no proxy runs, any user
        of this machine may listen in its place, and gets what is shown.
        """
        self._listen = config.admin_listen
        named = config.admin_token_file if writes else config.admin_read_token_file
        self._setting = "REGPROXY_ADMIN_TOKEN_FILE" if writes else "REGPROXY_ADMIN_READ_TOKEN_FILE"
        self._token_file = Path(named or (layout.admin_token if writes else layout.admin_read_token)(root))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return what is answered at a path below /api/v1/."""
        headers = {"Authorization": f"Bearer {self._token()}"}
        sent = None
        if body is not None:
            sent, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        with closing(self._connected()) as connection:
            try:
                connection.request(method, f"/api/v1/{path}", sent, headers)
                reply = connection.getresponse()
                return _answer(reply.status, reply.read(_ANSWER_MAX))
            except (OSError, http.client.HTTPException) as error:
                raise self._not_running(error) from None

    def _connected(self) -> http.client.HTTPConnection:
        last: OSError | None = None
        for host in reachable_at(self._listen.host):
            connection = http.client.HTTPConnection(host, self._listen.port, timeout=_PATIENCE)
            try:
                connection.connect()
            except OSError as error:
                last = error
            else:
                return connection
        raise self._not_running(last)

    def _not_running(self, error: Exception | None) -> NotRunning:
        return NotRunning(f"no proxy answers at {self._listen} (REGPROXY_ADMIN_LISTEN): {error}")

    def _token(self) -> str:
        try:
            return self._token_file.read_text().strip()
        except OSError as error:
            text = f"{self._token_file}: {error.strerror}; a running proxy makes it ({self._setting})"
            raise NotRunning(text) from None


def _answer(status: int, text: bytes) -> Any:
    try:
        document = json.loads(text)
    except ValueError:
        raise Refused(f"the admin port has answered {status} with a body that is not valid JSON") from None
    if status >= 400:
        detail = document.get("detail") if isinstance(document, dict) else None
        raise Refused(f"the admin port has answered {status}: {detail}")
    return document
