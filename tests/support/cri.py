"""Kubernetes' way to pull: containerd's CRI image service, asked by gRPC as kubelet does.

Of the CRI's messages (runtime.v1.ImageService) only what is used here is written out, by hand.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import grpc

from tests.support.closing import Closing
from tests.support.processes import Daemon
from tests.support.real_clients import Failed, client_env

TIMEOUT = 60.0


class Cri(Closing):
    """containerd with its CRI plugin, below `directory` until `close`.

    `proxy` and `ca` are in the daemon's environment; `hosts` is a directory of hosts.toml files.
    """

    def __init__(self, directory: Path, *, proxy: str, ca: Path | None, hosts: Path | None = None) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="cri-")
        place = Path(self._place.name)
        socket, config = place / "c.sock", place / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\n[grpc]\naddress = "{socket}"\n'
            '[plugins."io.containerd.grpc.v1.cri"]\ndisable_cgroup = true\n'
            '[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "native"\n'
            f'[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = "{place}"\nconf_dir = "{place}"\n'
            f'[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{hosts or ""}"\n'
        )
        env = client_env(directory / "home", proxy=proxy, ca=ca)
        self._daemon = Daemon("containerd", ["containerd", "-c", config], directory=directory, env=env)
        self._channel = grpc.insecure_channel(f"unix://{socket}")
        self._daemon.wait_ready(lambda: socket.exists() and self._answers())

    def pull(self, image: str) -> str:
        """Pull, and return the image's reference. Raises Failed."""
        try:
            return _text(self._call("PullImage", _field(1, _field(1, image.encode()))))
        except grpc.RpcError as error:
            raise Failed(str(error)) from None

    def remove(self, image: str) -> None:
        self._call("RemoveImage", _field(1, _field(1, image.encode())))

    def close(self) -> None:
        self._channel.close()
        self._daemon.stop()
        self._place.cleanup()

    def _answers(self) -> bool:
        try:
            self._call("ListImages", b"")
        except grpc.RpcError:
            return False
        return True

    def _call(self, method: str, message: bytes) -> bytes:
        call = self._channel.unary_unary(
            f"/runtime.v1.ImageService/{method}",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        answer: bytes = call(message, timeout=TIMEOUT)
        return answer


def _field(number: int, value: bytes) -> bytes:
    """Return a length-delimited field of protobuf's."""
    length, size = b"", len(value)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def _text(message: bytes) -> str:
    """Return the first field, a text of less than 128 bytes."""
    return message[2 : 2 + message[1]].decode() if message else ""
