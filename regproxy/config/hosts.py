"""Names of hosts that the program itself knows."""

from __future__ import annotations

from typing import Final

# What a client of the proxy may ask for pages, through CONNECT too.
OWN_HOST: Final = "docker.caching.proxy.internal"

DOCKER_HUB: Final = "docker.io"  # in names of images
DOCKER_HUB_REGISTRY: Final = "registry-1.docker.io"
DOCKER_HUB_TOKENS: Final = "auth.docker.io"
# What images and clients call its registry.
DOCKER_HUB_NAMES: Final = frozenset(
    {DOCKER_HUB, "index.docker.io", "registry.hub.docker.com", DOCKER_HUB_REGISTRY}
)
