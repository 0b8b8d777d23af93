# Two stages: one with a compiler that makes a virtual environment, one that has it and what it links to.
FROM debian:13-slim AS build

RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev libssl-dev python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/regproxy

WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY ext ext
COPY regproxy regproxy
RUN /opt/regproxy/bin/pip install --no-cache-dir '.[otel]' \
 && /opt/regproxy/bin/pip uninstall -y pip setuptools


FROM debian:13-slim

# libssl3t64 comes with python3.
# /entrypoint.sh is docker-registry-proxy's, which manifests may name.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 3128 --user-group --no-log-init --home-dir /nonexistent --shell /usr/sbin/nologin regproxy \
 && printf '#!/bin/sh\nexec regproxy serve\n' > /entrypoint.sh && chmod 755 /entrypoint.sh \
 && install -d -o regproxy -g regproxy -m 750 /docker_mirror_cache /ca
COPY --from=build /opt/regproxy /opt/regproxy

# The directories are named, so that one that can't be written ends the start: the program's own choice would be
# a home directory that goes with the container, and with it a CA that no client trusts.
ENV PATH=/opt/regproxy/bin:$PATH \
    REGPROXY_CACHE_DIR=/docker_mirror_cache \
    REGPROXY_CA_DIR=/ca

USER regproxy
VOLUME ["/docker_mirror_cache", "/ca"]
# 3128: clients. 3129: /metrics, /healthz, /readyz.
EXPOSE 3128 3129
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["python3", "-c", "\
import http.client, os;\
port = int(os.environ.get('REGPROXY_ADMIN_LISTEN', ':3129').rpartition(':')[2]);\
connection = http.client.HTTPConnection('127.0.0.1', port, timeout=4);\
connection.request('GET', '/readyz');\
raise SystemExit(connection.getresponse().status != 200)"]
ENTRYPOINT ["regproxy"]
CMD ["serve"]
