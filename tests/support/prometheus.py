"""A real Prometheus that scrapes a proxy and evaluates rules."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.processes import Daemon, free_address


class Prometheus:
    """Scrapes `targets` (addresses) as job `job` each `interval`, and evaluates `rules`, files, as often."""

    def __init__(
        self,
        directory: Path,
        targets: Iterable[tuple[str, int]],
        rules: Iterable[Path] = (),
        *,
        job: str = "regproxy",
        interval: str = "500ms",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.address = free_address()
        config = directory / "prometheus.json"  # JSON is YAML
        every = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
        static = [{"targets": [f"{host}:{port}" for host, port in targets]}]
        config.write_text(
            json.dumps(
                {
                    "global": every,
                    "rule_files": [str(path) for path in rules],
                    "scrape_configs": [{"job_name": job, "static_configs": static}],
                }
            )
        )
        host, port = self.address
        command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={host}:{port}",
            "--log.level=warn",
        ]
        self._daemon = Daemon("prometheus", command, directory=directory)
        try:
            self._daemon.wait_ready(self._ready)
        except BaseException:
            self._daemon.kill_group()
            raise

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and values of an instant vector, or of a scalar; AssertionError where it fails."""
        data = self.api("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(item["metric"], float(item["value"][1])) for item in data["result"]]

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their health, last error and alerts."""
        groups = self.api("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """Return the alerts that fire, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in self.api("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def targets(self) -> list[dict[str, Any]]:
        """Return the targets that are scraped, with their health and last error."""
        found: list[dict[str, Any]] = self.api("targets")["activeTargets"]
        return found

    def api(self, path: str, **parameters: str) -> Any:
        """GET /api/v1/`path`; the data of its answer."""
        status, body = self._get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        assert (status, answer["status"]) == (200, "success"), (parameters, answer)
        return answer["data"]

    def log(self) -> str:
        """Return what it has logged: warnings and errors."""
        return self._daemon.log_tail(1 << 20)

    def _ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == 200
        except OSError:
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        host, port = self.address
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{host}:{port}{path}", timeout=20) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._daemon.stop()
