# docker build -t regproxy .                  the proxy
# docker build -t regproxy:debug --target debug .   the same with mitmproxy, for DEBUG and DEBUG_HUB
#
# Stages: runtime, what both images run on; build, with a compiler, which makes virtual environments; the images.
# With SOURCE_DATE_EPOCH (a time in seconds) the files that are made here are the same each time; docs/image.md.
ARG BASE=docker.io/library/debian:13-slim

FROM ${BASE} AS runtime
# libssl3t64 comes with python3.
# /entrypoint.sh is docker-registry-proxy's, which manifests may name.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && useradd --uid 3128 --user-group --no-log-init --home-dir /nonexistent --shell /usr/sbin/nologin regproxy \
 && printf '#!/bin/sh\nexec regproxy serve "$@"\n' > /entrypoint.sh && chmod 755 /entrypoint.sh \
 && install -d -o regproxy -g regproxy -m 750 /docker_mirror_cache /ca \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
    /var/lib/dpkg/*-old /var/log/* /etc/*-
# The directories are named, so that one that can't be written ends the start: the program's own choice would be
# a home directory that goes with the container, and with it a CA that no client trusts.
ENV PATH=/opt/regproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    REGPROXY_CACHE_DIR=/docker_mirror_cache \
    REGPROXY_CA_DIR=/ca


FROM runtime AS build
RUN dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\t${source:Package}\n' > /dpkg
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils gcc libc6-dev libssl-dev python3-dev python3-venv
RUN python3 -m venv /tools && /tools/bin/pip install --no-cache-dir 'cyclonedx-python-lib[json-validation]>=9,<12'
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY ext ext
COPY regproxy regproxy
RUN /tools/bin/pip wheel --no-cache-dir --no-deps -w /wheels .
RUN python3 -m venv /opt/regproxy && /opt/regproxy/bin/pip install --no-cache-dir --no-compile "$(echo /wheels/*.whl)[otel]"
COPY deploy/image deploy/image
ARG SOURCE_DATE_EPOCH
RUN deploy/image/finish /opt/regproxy /sbom


FROM build AS build-debug
RUN python3 -m venv --upgrade-deps /opt/regproxy \
 && /opt/regproxy/bin/pip install --no-cache-dir --no-compile "$(echo /wheels/*.whl)[debug]"
ARG SOURCE_DATE_EPOCH
RUN deploy/image/finish /opt/regproxy /sbom


FROM runtime AS base
LABEL org.opencontainers.image.title="regproxy" \
      org.opencontainers.image.description="A caching, intercepting proxy for container image pulls" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:13-slim"
USER regproxy
VOLUME ["/docker_mirror_cache", "/ca"]
# 3128: clients. 3129: /metrics, /healthz, /readyz.
EXPOSE 3128 3129
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["regproxy", "healthcheck"]
ENTRYPOINT ["regproxy"]
CMD ["serve"]


FROM base AS debug
COPY --from=build-debug /sbom /usr/share/sbom
COPY --from=build-debug /opt/regproxy /opt/regproxy
# Nobody reaches a container's ports unless they are published.
ENV REGPROXY_DEBUG_LISTEN=:8081 \
    REGPROXY_DEBUG_HUB_LISTEN=:8082
EXPOSE 8081 8082


FROM base AS regproxy
COPY --from=build /sbom /usr/share/sbom
COPY --from=build /opt/regproxy /opt/regproxy
