"""Try several checks to the end, so that whoever corrects a configuration sees all of its faults at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from regproxy.config.settings import ConfigErrors
from regproxy.core.errors import ConfigError


def try_all(checks: Iterable[Callable[[], object]]) -> None:
    """Call each check. Raises ConfigError if one of them has, ConfigErrors if several have.

    A fault that several have found is told once.
    """
    found: dict[str, ConfigError] = {}
    for check in checks:
        try:
            check()
        except ConfigErrors as errors:
            found |= {str(error): error for error in errors.errors}
        except ConfigError as error:
            found[str(error)] = error
    faults = tuple(found.values())
    if faults:
        raise faults[0] if len(faults) == 1 else ConfigErrors(faults)
