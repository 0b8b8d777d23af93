"""Ask a proxy's port for clients for its CA, and admin ports whether they are ready: `helm test`."""

import sys
from urllib.request import ProxyHandler, build_opener

clients, *admins = sys.argv[1:]
# Not by a proxy: the environment's HTTPS_PROXY is for other hosts.
ask = build_opener(ProxyHandler({})).open
with ask(f"{clients}/ca.crt", timeout=10) as answer:
    assert b"BEGIN CERTIFICATE" in answer.read(), f"{clients}/ca.crt is no certificate"
for admin in admins:
    with ask(f"{admin}/readyz", timeout=10) as answer:
        assert answer.status == 200
print(f"{clients} has a CA, {len(admins)} of {len(admins)} replicas are ready")
