"""Which registry a request to the proxy itself is for, from values alone."""

from __future__ import annotations

import pytest

from regproxy.config.sources.assembly import load
from regproxy.http.messages import Framing, Request
from regproxy.policy.mirror_mode import MirrorMode


@pytest.mark.parametrize(
    "env, setting",
    [
        ({}, "REGISTRIES"),
        ({"REGISTRIES": "ghcr.io"}, "REGISTRIES"),
        ({"REGPROXY_MIRROR_REGISTRIES": "ghcr.io"}, "REGPROXY_MIRROR_REGISTRIES"),
    ],
)
@pytest.mark.parametrize(
    "target", ["/v2/nas.lan:5000/app/manifests/v1", "/v2/app/manifests/v1?ns=nas.lan%3A5000"]
)
def test_the_setting_that_a_registry_belongs_in(target: str, env: dict[str, str], setting: str) -> None:
    """To set the other one would take the mirror away from all registries that it does not name."""
    said = MirrorMode(load(env)).find(Request("GET", target, 1, (), Framing("none"), True, False))
    assert said == f"this proxy is no mirror of nas.lan:5000: name it in {setting}"
