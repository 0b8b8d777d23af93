"""OpenTelemetry's environment: when there are traces, and how many hits are among them."""

from __future__ import annotations

import pytest

from regproxy.core.errors import ConfigError
from regproxy.tracing import environment
from regproxy.tracing.environment import HITS, Tracing, read, secrets

ON = {"OTEL_TRACES_EXPORTER": "otlp"}
URL = "http://collector:4318"

READ: list[tuple[dict[str, str], Tracing | None]] = [
    ({}, None),
    ({"OTEL_SERVICE_NAME": "cache"}, None),
    (ON, Tracing(True, HITS)),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL}, Tracing(True, HITS)),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, Tracing(True, HITS)),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_TRACES_EXPORTER": "none"}, None),
    (ON | {"OTEL_SDK_DISABLED": "TRUE"}, None),
    (ON | {"OTEL_SDK_DISABLED": "false"}, Tracing(True, HITS)),
    (ON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, Tracing(True, HITS)),
    # What is for traces alone wins.
    (
        ON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
        Tracing(True, HITS),
    ),
    (ON | {"OTEL_TRACES_SAMPLER": "always_on"}, Tracing(False, 1.0)),
    (ON | {"OTEL_TRACES_SAMPLER": "always_off"}, None),
    (ON | {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Tracing(True, 0.0)),
    (ON | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, Tracing(False, 0.25)),
    (ON | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, Tracing(True, 1.0)),
]

REFUSED = [
    ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER='zipkin': otlp or none"),
    (ON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL='grpc': http/protobuf"),
    (ON | {"OTEL_TRACES_SAMPLER": "some"}, "OTEL_TRACES_SAMPLER='some': always_on, "),
    (ON | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "a number from 0 to 1"),
    (ON | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "a number from 0 to 1"),
    (ON | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, "a number from 0 to 1"),
]


@pytest.mark.parametrize("env, want", READ, ids=str)
def test_read(env: dict[str, str], want: Tracing | None) -> None:
    assert read(env) == want


@pytest.mark.parametrize("env, want", REFUSED, ids=str)
def test_refused(env: dict[str, str], want: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(env)
    assert want in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; without traces nothing is missed."""
    monkeypatch.setattr(environment, "_EXTRA", ("opentelemetry.not_there",))
    with pytest.raises(ConfigError, match=r"pip install 'regproxy\[otel\]'"):
        read(ON)
    monkeypatch.setattr(environment, "_EXTRA", ("nothing_of_this.name",))
    with pytest.raises(ConfigError, match="OTEL_TRACES_EXPORTER=none"):
        read(ON)
    assert read({}) is None


def test_what_is_secret() -> None:
    env = {
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=abc, authorization=Basic%20eDp5",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x=",
    }
    assert secrets(env) == {"abc", "Basic%20eDp5", "Basic eDp5"}
    assert secrets({}) == set()
