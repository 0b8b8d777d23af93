"""Ask the admin port of the proxy that runs on this machine."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import closing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

from regproxy.admin import proofs
from regproxy.admin.visitors import Scope, Token
from regproxy.cache import layout
from regproxy.config.settings import Config
from regproxy.core.addresses import reachable_at
from regproxy.core.errors import RegproxyError

_PATIENCE: Final = 30.0  # seconds
_ANSWER_MAX: Final = 64 * 1024 * 1024  # bytes
_PROOF_MAX: Final = 4096
_ATTEMPTS: Final = 5  # connections that end before the proof, as in a reload, until this is given up
# Nothing that the listener says is repeated: it may be anybody.
_UNPROVEN: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "is not this proxy: it does not know the token in {file}. Is it another program,"
    " or another proxy?",
    HTTPStatus.FORBIDDEN: "accepts the token in {file} only from its own machine; run this there",
    HTTPStatus.NOT_FOUND: "is not this proxy: it can't prove that it knows the token in {file}. If it is an"
    " older version of regproxy, restart it with this one",
    HTTPStatus.MISDIRECTED_REQUEST: "is not this proxy: it passes connections on to one, and would read the"
    " token in {file}. Run this where the proxy runs, for example with `docker exec`",
    HTTPStatus.TOO_MANY_REQUESTS: "says that too many wrong tokens come from this address; try again later",
}
_NO_PROOF: Final = "is not this proxy: it did not prove that it knows the token in {file}"
_NO_HTTP: Final = "is not this proxy: it does not answer as an HTTP server does"


class NotRunning(RegproxyError):
    """Nobody answers at the admin port."""


class Refused(RegproxyError):
    """The admin port has answered with a problem."""


class NotProven(Refused):
    """The listener at the admin port has not proven that it knows the token, so the token was not sent."""


class AdminClient:
    """Sends requests with one of the tokens. Raises NotRunning if nobody answers, Refused, NotProven.

    Where no proxy runs, any user of this machine may listen in its place. So the token is sent only on a
    connection whose other end has proven that it knows it.
    """

    def __init__(self, config: Config, root: Path, *, writes: bool) -> None:
        """`root`: the cache directory, where the tokens are unless settings name their files.

        `writes`: use the token for everything instead of the read-only one.
        """
        self._listen = config.admin_listen
        named = config.admin_token_file if writes else config.admin_read_token_file
        self._setting = "REGPROXY_ADMIN_TOKEN_FILE" if writes else "REGPROXY_ADMIN_READ_TOKEN_FILE"
        self._is_named = bool(named)
        self._token_file = Path(named or (layout.admin_token if writes else layout.admin_read_token)(root))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer from a path below /api/v1/."""
        token = self._token()
        headers = {"Authorization": f"Bearer {token.text}"}
        sent = None
        if body is not None:
            sent, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        with closing(self._proven(token)) as connection:
            try:
                connection.request(method, f"/api/v1/{path}", sent, headers)
                reply = connection.getresponse()
                return _answer(reply.status, reply.read(_ANSWER_MAX))
            except (OSError, http.client.HTTPException) as error:
                raise self._not_running(error) from None

    # --- who listens -------------------------------------------------------------------------------------

    def _proven(self, token: Token) -> http.client.HTTPConnection:
        """Return a connection whose other end has proven that it knows the token."""
        error: Exception | None = None
        for _ in range(_ATTEMPTS):
            connection = self._connected()
            # Else it would reconnect when this one ends, and send the token to whoever listens by then.
            connection.auto_open = 0
            try:
                with _Deadline(connection.sock, _PATIENCE) as deadline:
                    self._prove(connection, token)
                if connection.sock is not None:
                    return connection
                error = http.client.NotConnected("its workers end")
            except ConnectionError as found:
                error = found
                if deadline.is_over:
                    connection.close()
                    raise self._not_running(TimeoutError(f"no proof within {_PATIENCE:g} s")) from None
            except BaseException:
                connection.close()
                raise
            connection.close()
        raise self._not_running(error)

    def _prove(self, connection: http.client.HTTPConnection, token: Token) -> None:
        """Prove that this client knows the token, and have the listener prove the same. Raises NotProven."""
        address, own = _ends(connection.sock)
        what = address, own, proofs.new_nonce()
        proof = proofs.proof_of_client(token, *what)
        asked = dict(zip(("address", "client", "nonce"), what, strict=True)) | {"proof": proof}
        body = json.dumps(asked).encode()
        shown, why = "", _NO_HTTP
        try:
            connection.request("POST", proofs.PATH, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            shown = _proof(reply.read(_PROOF_MAX)) if reply.status == HTTPStatus.OK else ""
            why = _UNPROVEN.get(reply.status, _NO_PROOF)
        except ConnectionError:
            raise
        except OSError as error:
            raise self._not_running(error) from None
        except http.client.HTTPException:
            pass
        if not proofs.is_same(shown, proofs.proof_of_proxy(token, *what)):
            why = why.format(file=self._token_file)
            raise NotProven(f"what listens at {address} (REGPROXY_ADMIN_LISTEN) {why}")

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

    def _token(self) -> Token:
        try:
            text = self._token_file.read_text().strip()
        except OSError as error:
            how = (
                f"named by {self._setting}"
                if self._is_named
                else f"a running proxy makes it, or {self._setting} names another"
            )
            text = f"{self._token_file}: {error.strerror}; {how}"
            raise NotRunning(text) from None
        return Token(text, Scope.WRITE, local=True)


class _Deadline:
    """Ends a connection at a deadline: a socket's timeout starts anew with each byte received."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self.is_over = False
        self._sock = sock
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self.is_over = True
        with suppress(OSError):  # it has ended by itself
            self._sock.shutdown(socket.SHUT_RDWR)


def _ends(sock: socket.socket) -> tuple[str, str]:
    """Return the remote and the local end of a connection. Raises ConnectionError.

    Not the configured address: a name may have several, and may have moved since.
    """
    try:
        found = sock.getpeername(), sock.getsockname()
    except OSError as error:  # it was reset, so there is no peer
        raise ConnectionResetError(error.errno, error.strerror) from None
    address, own = (proofs.address_text(*each[:2]) for each in found)
    return address, own


def _proof(text: bytes) -> str:
    """Return the proof in an answer, "" if it has none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    proof = document.get("proof") if isinstance(document, dict) else None
    return proof if isinstance(proof, str) else ""


def _answer(status: int, text: bytes) -> Any:
    try:
        document = json.loads(text)
    except ValueError:
        raise Refused(f"the admin port has answered {status} with a body that is not valid JSON") from None
    if status >= 400:
        detail = document.get("detail") if isinstance(document, dict) else None
        raise Refused(f"the admin port has answered {status}: {detail}")
    return document
