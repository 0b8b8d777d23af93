"""OpenTelemetry traces of requests. Nothing of OpenTelemetry is imported unless they are switched on."""
