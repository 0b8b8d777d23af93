"""docker-registry (distribution 2.8) over TLS: open, htpasswd or token auth, blobs its own or on a CDN."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.connect_relay import Relay
from tests.support.images import Image, Index, write_layout
from tests.support.origin import Answer, Origin, Seen
from tests.support.processes import Daemon, accepts, free_address, wait_until
from tests.support.real_clients import Skopeo
from tests.support.token_server import ISSUER, TokenServer
from tests.support.trust import Trust

PROGRAM = Path("/usr/bin/docker-registry")
LINE = re.compile(r'(\S+) - \S+ \[[^\]]+\] "(\S+) (\S+) HTTP/[\d.]+" (\d{3}) (\d+) "([^"]*)" "([^"]*)"')
MARK = "/v2/?mark="


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of the registry's access log; `target` has the query, `sent` is the body's size."""

    method: str
    target: str
    status: int
    sent: int
    agent: str

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Registry:
    """A running docker-registry that is `name` to the world, at `address` or on a free port.

    `users` turns htpasswd on, `tokens` token auth, `cdn` (see `blob_cdn`) sends readers of blobs there.
    Several registries may share one `storage`. `program`: another one that takes the same configuration.
    `stop` and `start` make it unreachable and reachable again, at one address.
    """

    def __init__(
        self,
        directory: Path,
        trust: Trust,
        *,
        name: str = "reg.test",
        users: Mapping[str, str] | None = None,
        tokens: TokenServer | None = None,
        cdn: Origin | None = None,
        storage: Path | None = None,
        program: Path = PROGRAM,
        address: tuple[str, int] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.name, self.users = directory, name, dict(users or {})
        self.storage = storage or directory / "storage"
        self.address = address or free_address()
        self.tokens = tokens
        self._program = program
        self._trust = trust
        self._context = trust.client_context()
        self._context.check_hostname = False
        self._config = directory / "config.yml"
        self._config.write_text(json.dumps(self._settings(trust, cdn)))  # JSON is YAML
        self._daemon: Daemon | None = None
        self._pushes = 0
        self.start()

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def authority(self) -> str:
        """Return "name:port"."""
        return f"{self.name}:{self.port}"

    @property
    def resolve(self) -> dict[str, str]:
        """Names and the addresses to find them at, its token server's included."""
        own = {self.name: self.address[0]}
        return own | (self.tokens.origin.resolve if self.tokens else {})

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        command: list[str | Path] = [self._program, "serve", self._config]
        self._daemon = Daemon(
            f"registry-{self.name}", command, directory=self.directory, env={"OTEL_SDK_DISABLED": "1"}
        )
        self._daemon.wait_ready(lambda: accepts(self.address))

    def stop(self) -> None:
        """End it; its address refuses connections then."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None

    def push(self, repository: str, tag: str, image: Image | Index, *, creds: str | None = None) -> str:
        """Push by skopeo, straight to the registry and byte for byte; return "name:port/repository:tag"."""
        self._pushes += 1
        place = self.directory / f"push-{self._pushes}"
        layout = write_layout(place / "layout", {tag: image})
        target = f"{self.authority}/{repository}:{tag}"
        if creds is None and self.users:
            creds = ":".join(next(iter(self.users.items())))
        with Relay(self.resolve) as relay:
            skopeo = Skopeo(place, proxy=relay.url, ca=self._trust.path)
            skopeo.push(layout, tag, target, creds=creds)
        return target

    def requests(self) -> list[Logged]:
        """Return every request answered so far, in order of the answers' ends (needs a running registry).

        A marked request of our own is waited for in the log, so that the lines of all before it are there.
        """
        mark = MARK + uuid.uuid4().hex
        request = urllib.request.Request(f"https://{self.address[0]}:{self.port}{mark}")
        try:
            urllib.request.urlopen(request, context=self._context, timeout=20).close()
        except urllib.error.HTTPError as error:  # 401 where auth is on: logged like any other
            error.close()
        lines = wait_until(lambda: self._lines_up_to(mark), f"{mark} in the access log")
        found = [_parse(line) for line in lines if LINE.match(line)]
        return [logged for logged in found if not logged.target.startswith(MARK)]

    def counted(self, method: str = "", part: str = "") -> int:
        """Return how many requests had that method (any, when empty) and `part` in their path."""
        return sum(method in ("", logged.method) and part in logged.path for logged in self.requests())

    def _lines_up_to(self, mark: str) -> list[str] | None:
        assert self._daemon is not None
        log = self._daemon.out.read_text()
        end = log.find("\n", log.find(mark)) if mark in log else -1
        return None if end < 0 else log[:end].splitlines()

    def _settings(self, trust: Trust, cdn: Origin | None) -> dict[str, Any]:
        pair = trust.server(self.name, self.address[0])
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}, "delete": {"enabled": True}},
            "http": {
                "addr": f"{self.address[0]}:{self.port}",
                "secret": "one secret for all",
                "tls": {"certificate": str(pair.chain), "key": str(pair.key)},
            },
        }
        if self.users:
            settings["auth"] = {"htpasswd": {"realm": "registry", "path": str(self._htpasswd())}}
        if self.tokens:
            settings["auth"] = {
                "token": {
                    "realm": self.tokens.realm,
                    "service": self.name,
                    "issuer": ISSUER,
                    "rootcertbundle": str(self.tokens.root_bundle),
                }
            }
        if cdn:
            redirect = {"name": "redirect", "options": {"baseurl": f"{cdn.url}/"}}
            settings["middleware"] = {"storage": [redirect]}
        return settings

    def _htpasswd(self) -> Path:
        path = self.directory / "htpasswd"
        lines = [
            subprocess.run(["htpasswd", "-Bbn", *pair], check=True, capture_output=True, text=True).stdout
            for pair in self.users.items()
        ]
        path.write_text("".join(lines))
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def blob_cdn(trust: Trust, storage: Path, *, name: str = "cdn.test") -> Origin:
    """Return an origin that serves what a registry with this storage redirects to."""

    def serve(seen: Seen) -> Answer:
        try:
            body = (storage / seen.path.lstrip("/")).read_bytes()
        except OSError:
            return Answer(b"<Error><Code>NoSuchKey</Code></Error>", 404, {"Content-Type": "application/xml"})
        return Answer(body, headers={"Content-Type": "application/octet-stream"})

    origin = Origin(trust, name)
    origin.on("/docker/registry/v2/blobs/*", serve)
    return origin


def _parse(line: str) -> Logged:
    match = LINE.match(line)
    assert match is not None
    return Logged(match[2], match[3], int(match[4]), int(match[5]), match[7])
