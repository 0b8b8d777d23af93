"""squid-openssl with ssl-bump and a disk cache: the same job as ours, CONNECT and all.

As wiki.squid-cache.org has it (Features/DynamicSslCert, Features/SslPeekAndSplice). Squid answers 409 to a
request within a tunnel unless its Host carries the CONNECT's port, which it then does.

The cache is of the kind that squid.conf shows, ufs: with aufs and rock, large hits took several times the
CPU. Few directories are enough for few objects, and soon made. `override-lastmod`, since content would be
stale once it was in the cache for as long as it existed before, which may be a moment.
"""

from __future__ import annotations

import shlex
import subprocess

from bench.errors import BenchError
from bench.loadgen import Route
from bench.material import HOST
from bench.peers.base import Peer

HELPER = "/usr/lib/squid/security_file_certgen"


class Squid(Peer):
    """One process, as is squid's default, with its helpers; access log on."""

    name = "squid"
    program = "squid"
    package = "squid-openssl"
    user = "proxy"

    @classmethod
    def missing(cls) -> str:
        """Debian's other package of squid has no ssl-bump."""
        if not (program := cls.where()):
            return super().missing()
        said = subprocess.run([program, "-v"], capture_output=True, text=True).stdout
        return (
            "" if "--with-openssl" in said else "this squid is built without OpenSSL: squid-openssl is needed"
        )

    def command(self) -> list[str]:
        return [self.where() or self.program, "--foreground", "-f", str(self.site.directory / "squid.conf")]

    def _write(self) -> None:
        here, identity = self.site.directory, self.site.identity
        (here / "hosts").write_text(f"127.0.0.1 {HOST}\n")
        (here / "signing.pem").write_bytes(identity.ca.read_bytes() + identity.ca_key.read_bytes())
        (here / "signing.pem").chmod(0o600)
        (here / "squid.conf").write_text(self._config())

    def _config(self) -> str:
        here = self.site.directory
        return f"""
http_port 127.0.0.1:{self.port} ssl-bump tls-cert={here}/signing.pem generate-host-certificates=on \
dynamic_cert_mem_cache_size=4MB
sslcrtd_program {HELPER} -s {here}/certificates -M 4MB
sslcrtd_children 1
ssl_bump bump all
tls_outgoing_options cafile={self.site.identity.ca}
hosts_file {here}/hosts
http_access allow all
cache_dir ufs {self.cache} 16384 4 16
maximum_object_size 8 GB
cache_mem 256 MB
collapsed_forwarding on
refresh_pattern . 1440 100% 14400 override-lastmod
access_log stdio:{here}/access.log
cache_log {here}/cache.log
pid_filename {here}/squid.pid
coredump_dir {here}
pinger_enable off
shutdown_lifetime 0 seconds
"""

    def _prepare(self) -> None:
        certificates = self.site.directory / "certificates"
        if not certificates.exists():
            self._run([HELPER, "-c", "-s", str(certificates), "-M", "4MB"])
        self._hand_over()
        program, _, *options = self.command()
        self._run([program, "--foreground", "-z", *options])

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BenchError(f"{shlex.join(command)}:\n{done.stdout}{done.stderr}")

    def route(self) -> Route:
        host = f"{HOST}:{self.site.origin}"
        return Route(f"127.0.0.1:{self.port}", host, self.site.identity.ca, connect=True)
