"""cosign, where it is installed: signs images in a registry of the test, and asks nobody else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.trust import Trust

PROGRAM = os.environ.get("COSIGN") or shutil.which("cosign")
_VERSION = re.compile(r"GitVersion:\s+v(\d+)\.")


class Cosign:
    """cosign below `directory`, with a key of its own: `pem` is the public one. `major`: its version."""

    def __init__(self, directory: Path, trust: Trust) -> None:
        assert PROGRAM is not None
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._env = {
            "HOME": str(directory),
            "COSIGN_PASSWORD": "",
            "COSIGN_EXPERIMENTAL": "1",
            "SSL_CERT_FILE": str(trust.path),
            # Nothing but loopback addresses, for which Go uses no proxy, is to be reached.
            "HTTPS_PROXY": "http://127.0.0.1:1",
            "HTTP_PROXY": "http://127.0.0.1:1",
        }
        found = _VERSION.search(self._run("version"))
        assert found is not None
        self.major = int(found[1])
        self._run("generate-key-pair")
        self.pem = (directory / "cosign.pub").read_bytes()

    def sign(self, image: str, *options: str) -> None:
        """Sign "host:port/repository@digest" without any log."""
        self._run("sign", "--key", "cosign.key", "--tlog-upload=false", "-y", *options, image)

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [PROGRAM or "", *words],
            cwd=self._directory,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr
