"""nginx as a caching reverse proxy: proxy_cache over TLS, to a TLS origin.

As nginx's guide has it ("NGINX Content Caching", docs.nginx.com) and ngx_http_proxy_module: keep-alive to the
origin, a lock so that one request fills the cache, revalidation, no copy through a temporary directory.
"""

from __future__ import annotations

import os

from bench.material import HOST
from bench.peers.base import Peer

TEMPORARY = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")


class NginxCache(Peer):
    """`workers` processes, access log on."""

    name = "nginx-cache"
    program = "nginx"
    package = "nginx-light"

    def command(self) -> list[str]:
        here = self.site.directory
        errors = str(here / "error.log")
        return [self.where() or self.program, "-p", str(here), "-e", errors, "-c", str(here / "nginx.conf")]

    def _write(self) -> None:
        (self.site.directory / "nginx.conf").write_text(self._config())

    def _config(self) -> str:
        here, identity = self.site.directory, self.site.identity
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "\n".join(f"  {kind}_temp_path {here}/temp;" for kind in TEMPORARY)
        return f"""
daemon off;
{user}
worker_processes {self.site.workers};
pid {here}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log {here}/access.log combined;
{temporary}
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  default_type application/octet-stream;
  ssl_protocols TLSv1.2 TLSv1.3;
  proxy_cache_path {self.cache} levels=1:2 keys_zone=registry:10m max_size=16g inactive=60d use_temp_path=off;
  upstream origin {{ server 127.0.0.1:{self.site.origin}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{self.port} ssl;
    server_name {HOST};
    ssl_certificate {identity.leaf};
    ssl_certificate_key {identity.leaf_key};
    location / {{
      proxy_pass https://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_ssl_name {HOST};
      proxy_ssl_server_name on;
      proxy_ssl_trusted_certificate {identity.ca};
      proxy_ssl_verify on;
      proxy_ssl_protocols TLSv1.2 TLSv1.3;
      proxy_cache registry;
      proxy_cache_valid 200 60d;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 880s;
      proxy_cache_lock_age 880s;
      proxy_cache_revalidate on;
      proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504;
    }}
  }}
}}
"""
