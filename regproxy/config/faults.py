"""Try several checks to the end, so that whoever corrects a configuration sees all of its faults at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from regproxy.core.errors import ConfigError, RegproxyError


class ConfigErrors(ConfigError):
    """Several settings that can't be used, one a line; `errors` has each of them."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(errors)
        RegproxyError.__init__(self, "\n".join(str(error) for error in self.errors))
        first = self.errors[0]
        self.variable, self.value, self.expected = first.variable, first.value, first.expected


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
