"""docs/commands.md has every command with its options, as `--help` has them.

`python -m tests.project.test_commands_page` writes it anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from regproxy.cli.main import app
from tests.support import ROOT

PAGE = ROOT / "docs" / "commands.md"
BEGIN, END = "<!-- commands: python -m tests.project.test_commands_page -->\n", "<!-- end of commands -->\n"
ESCAPED_BAR = r"\|"
COMPLETION = {"install_completion", "show_completion", "help"}  # of every command, and of every shell


def sections(command: Any, name: str = "regproxy") -> Iterator[str]:
    """Yield the section of a command, and those of the commands below it."""
    context = command.make_context(name, [], resilient_parsing=True)
    below = [
        (word, found)
        for word in (command.list_commands(context) if hasattr(command, "list_commands") else ())
        if not (found := command.get_command(context, word)).hidden
    ]
    if not below:
        yield section(command, context, name)
    for word, found in below:
        yield from sections(found, f"{name} {word}")


def section(command: Any, context: Any, name: str) -> str:
    """Return the section of one command."""
    shown = [each for each in command.get_params(context) if each.name not in COMPLETION]
    parameters = [each for each in shown if not each.hidden]
    arguments = [term_of(each) for each in parameters if is_argument(each)]
    usage = " ".join(
        [name, "[OPTIONS]", *arguments] if len(arguments) < len(parameters) else [name, *arguments]
    )
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", (command.help or "").strip())]
    lines = [f"## {name}", "", f"`{usage}`", ""]
    for paragraph in paragraphs:
        lines += [_text(paragraph), ""]
    if parameters:
        lines += ["| option | meaning |", "|---|---|"]
        for each in parameters:
            cells = (f"`{term_of(each)}`", meaning_of(each))
            lines.append(f"| {' | '.join(cell.replace('|', ESCAPED_BAR) for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def is_argument(parameter: Any) -> bool:
    """Return whether it has no dashes."""
    return bool(parameter.param_type_name == "argument")


def term_of(parameter: Any) -> str:
    """Return what is written on a command line. How typer's versions call types is not part of it."""
    value = (parameter.metavar or max(parameter.opts, key=len)).strip("[]{}.-").upper()
    if is_argument(parameter):
        value += "..." if parameter.nargs == -1 else ""
        return value if parameter.required else f"[{value}]"
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.is_flag:
        return names
    choices = [each.value for each in type(parameter.default)] if isinstance(parameter.default, Enum) else ()
    return f"{names} {'|'.join(choices) or value}"


def meaning_of(parameter: Any) -> str:
    """Return the help of an option, with its default where there is one."""
    text, default = parameter.help or "", parameter.default
    default = default.value if isinstance(default, Enum) else default
    if not is_argument(parameter) and not parameter.is_flag:
        known = isinstance(default, int | float | str) and default not in ("", None)
        text += f" Default: {default}." if known else ""
        text += f" Also by `{parameter.envvar}`." if isinstance(parameter.envvar, str) else ""
    return _text(text)


def _text(text: str) -> str:
    """Return a text that Markdown leaves as it is."""
    return re.sub(r"(?<![\\`])([<*])", r"\\\1", " ".join(text.replace("\b", "").split()))


def page() -> str:
    """Return the page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    within = "\n".join(sections(typer.main.get_command(app)))
    return f"{before}{BEGIN}\n{within}{END}{rest.partition(END)[2]}"


def test_every_command_is_in_the_page() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.project.test_commands_page"
    assert "## regproxy cache purge\n" in PAGE.read_text()


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
