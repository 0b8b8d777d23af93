"""Apache Traffic Server as a caching reverse proxy: TLS in, TLS out.

As docs.trafficserver.apache.org has it ("Reverse Proxy and HTTP Redirects", "SSL Termination"). What is not
here has its default: an object may have any size (proxy.config.cache.max_doc_size), and TLS takes the suite
that the server likes best, AES-256, where the others take the client's. The cache is one file of CACHE, which
is sparse at first.
"""

from __future__ import annotations

from bench.material import HOST
from bench.peers.base import Peer

CACHE = "8G"
SYSTEM = {"bindir": "/usr/bin", "sbindir": "/usr/bin", "libdir": "/usr/lib/trafficserver"}
MODULES = "/usr/lib/trafficserver/modules"


class TrafficServer(Peer):
    """One process with as many threads as it takes by itself; squid-like access log."""

    name = "trafficserver"
    program = "traffic_server"
    package = "trafficserver"
    user = "trafficserver"

    def command(self) -> list[str]:
        return [self.where() or self.program, f"--run-root={self.site.directory / 'runroot.yaml'}"]

    def _write(self) -> None:
        here = self.site.directory
        for name in ("etc", "var", "run", "log"):
            (here / name).mkdir(exist_ok=True)
        for name, text in self._files().items():
            (here / name).write_text(text)

    def _files(self) -> dict[str, str]:
        here, identity, origin = self.site.directory, self.site.identity, self.site.origin
        own = {
            "prefix": here,
            "exec_prefix": here,
            "sysconfdir": here / "etc",
            "datadir": here / "share",
            "includedir": here / "include",
            "libexecdir": MODULES,
            "localstatedir": here / "var",
            "runtimedir": here / "run",
            "logdir": here / "log",
            "cachedir": self.cache,
        }
        certificate = f"ssl_cert_name={identity.leaf} ssl_key_name={identity.leaf_key}"
        return {
            "runroot.yaml": "".join(f"{name}: {path}\n" for name, path in {**own, **SYSTEM}.items()),
            "etc/records.config": self._records(),
            "etc/remap.config": f"map https://{HOST}:{self.port}/ https://127.0.0.1:{origin}/\n",
            "etc/ssl_multicert.config": f"dest_ip=* {certificate}\n",
            "etc/storage.config": f"{self.cache} {CACHE}\n",
            # The origin says nothing of freshness, as registries often do not.
            "etc/cache.config": "url_regex=/v2/ ttl-in-cache=60d\n",
            "etc/ip_allow.yaml": ALLOWED,
            "etc/logging.yaml": LOGGING,
        }

    def _records(self) -> str:
        ca = self.site.identity.ca
        values = {
            "http.server_ports STRING": f"{self.port}:ssl:ip-in=127.0.0.1",
            "exec_thread.autoconfig INT": 1,
            "exec_thread.autoconfig.scale FLOAT": 1.0,
            "http.wait_for_cache INT": 1,  # nothing is accepted before the cache is ready
            "url_remap.remap_required INT": 1,
            "url_remap.pristine_host_hdr INT": 1,  # HOST is the name in the origin's certificate
            "reverse_proxy.enabled INT": 1,
            "ssl.client.verify.server.policy STRING": "ENFORCED",
            "ssl.client.CA.cert.path STRING": ca.parent,
            "ssl.client.CA.cert.filename STRING": ca.name,
            "log.logging_enabled INT": 3,
            "admin.user_id STRING": self.user,
        }
        return "".join(f"CONFIG proxy.config.{name} {value}\n" for name, value in values.items())


ALLOWED = """ip_allow:
  - apply: in
    ip_addrs: 127.0.0.1
    action: allow
    methods: ALL
"""
LOGGING = """logging:
  formats:
    - name: squid
      format: '%<cqtq> %<ttms> %<chi> %<crc>/%<pssc> %<psql> %<cqhm> %<cquc> %<caun> %<phr>/%<shn> %<psct>'
  logs:
    - filename: squid
      format: squid
      mode: ascii
"""
