"""Read OpenTelemetry's environment variables: whether there are traces, and how many of the hits.

The endpoint, headers, certificates and the attributes of the resource are read by OpenTelemetry itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from regproxy.core.errors import ConfigError

HITS: Final = 0.01  # of which a trace is kept, where nothing else is said
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HEADERS: Final = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_EXTRA: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
# Name -> whether a client's decision counts for its requests, and the ratio; None: OTEL_TRACES_SAMPLER_ARG.
_SAMPLERS: Final[Mapping[str, tuple[bool, float | None]]] = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}


class Tracing(Struct, frozen=True):
    """`parent_based`: a client that records its trace, or does not, decides for its hits. `hits`: the part of
    the others that is recorded.
    """

    parent_based: bool = True
    hits: float = HITS


def read(env: Mapping[str, str]) -> Tracing | None:
    """Return what the environment asks for, None for no traces. Raises ConfigError."""
    if not _wanted(env):
        return None
    for name in _PROTOCOLS:
        protocol = env.get(name, "").strip()
        if protocol:
            if protocol != "http/protobuf":
                raise ConfigError(name, protocol, "http/protobuf; there is no other exporter here")
            break
    found = _sampler(env)
    if found is not None and not _is_installed():
        text = "traces want OpenTelemetry: pip install 'regproxy[otel]', or OTEL_TRACES_EXPORTER=none"
        raise ConfigError("OTEL_TRACES_EXPORTER", "otlp", text)
    return found


def secrets(env: Mapping[str, str]) -> frozenset[str]:
    """Return the values of the headers that a collector is sent, as they are written and as they are sent."""
    pairs = [pair for name in _HEADERS for pair in env.get(name, "").split(",")]
    written = {value.strip() for _, _, value in (pair.partition("=") for pair in pairs)}
    return frozenset(written | {unquote(value).strip() for value in written}) - {""}


def _wanted(env: Mapping[str, str]) -> bool:
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter in ("otlp", "none"):
        return exporter == "otlp"
    if exporter:
        raise ConfigError("OTEL_TRACES_EXPORTER", exporter, "otlp or none")
    return any(env.get(name, "").strip() for name in _ENDPOINTS)


def _sampler(env: Mapping[str, str]) -> Tracing | None:
    name, argument = (
        env.get("OTEL_TRACES_SAMPLER", "").strip(),
        env.get("OTEL_TRACES_SAMPLER_ARG", "").strip(),
    )
    if not name:
        return Tracing()
    if name not in _SAMPLERS:
        raise ConfigError("OTEL_TRACES_SAMPLER", name, ", ".join(_SAMPLERS))
    if name == "always_off":
        return None
    parent_based, ratio = _SAMPLERS[name]
    if ratio is None:
        try:
            ratio = float(argument or "1")
        except ValueError:
            ratio = math.nan
        if not 0.0 <= ratio <= 1.0:
            raise ConfigError("OTEL_TRACES_SAMPLER_ARG", argument, "a number from 0 to 1")
    return Tracing(parent_based, ratio)


def _is_installed() -> bool:
    try:
        return all(find_spec(name) is not None for name in _EXTRA)
    except ModuleNotFoundError:
        return False
