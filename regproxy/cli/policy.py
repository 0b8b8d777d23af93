"""`regproxy policy explain`: say which rule for images decides on a pull, and why."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from msgspec import to_builtins

from regproxy.cli.common.ending import fail
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.config.image_rules import ANONYMOUS_WORD
from regproxy.config.sources import loading
from regproxy.core.errors import ConfigError, RegproxyError
from regproxy.policy.image_rules import Explanation, ImageRules, Need
from regproxy.server.explanations import facts_of

app = typer.Typer(help="Explain the rules for images.", no_args_is_help=True, add_completion=False)

ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Image name, such as ghcr.io/team/app:1.0.")
]
AsOption = Annotated[
    str, typer.Option("--as", help=f"Principal who pulls it; {ANONYMOUS_WORD} for a client without a name.")
]
DigestOption = Annotated[str, typer.Option("--digest", help="Digest that the tag points to, if known.")]
TypeOption = Annotated[str, typer.Option("--media-type", help="Media type of the manifest, if known.")]
PushOption = Annotated[bool, typer.Option("--push", help="Explain a push instead of a pull.")]


@app.callback()
def root() -> None:
    """Explain the rules for images."""


@app.command()
def explain(
    image: ImageArgument,
    principal: AsOption = ANONYMOUS_WORD,
    digest: DigestOption = "",
    media_type: TypeOption = "",
    push: PushOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Explain which rule decides on a pull, and why. Exit code 0, whatever the decision.

    Only the configuration is read. If the decision depends on anything else, it says on what.
    """
    try:
        rules = ImageRules(loading.read(config, os.environ).image_rules.rules)
        facts = facts_of(image, principal, digest, media_type, push=push)
    except (ConfigError, RegproxyError) as error:
        fail(str(error))
    explanation = rules.explain(facts)
    typer.echo(json.dumps(to_builtins(explanation), indent=2) if as_json else _written(explanation))


def _written(explanation: Explanation) -> str:
    lines = [f"{explanation.image}, for {explanation.principal}:"]
    lines += [f"  {step.rule}: {step.state}, {step.reason}" for step in explanation.steps]
    decision = explanation.decision
    if decision is None:
        needed = " and ".join(_needed(need) for need in explanation.needs)
        lines.append(f"it depends on {needed}, which only the proxy finds out")
    else:
        by = f"by rule {decision.rule!r}" if decision.rule else "no rule is for it"
        lines.append(f"{decision.action}: {by} ({decision.reason})" if decision.rule else f"allow: {by}")
        if decision.message:
            lines.append(f"the client is told: {decision.message}")
        if decision.dry is not None:
            lines.append(f"in dry run, rule {decision.dry.rule!r} would {decision.dry.action}")
    return "\n".join(lines)


def _needed(need: Need) -> str:
    return {
        "digest": "the digest that the tag is now (--digest)",
        "media type": "its media type (--media-type)",
        "history": "which digests the proxy has seen under the tag, and since when",
        "signed": f"whether it is signed by {' or '.join(need.names)}",
        "verdict": f"the verdict that rule {' '.join(need.names)!r} asks for",
    }[need.kind]
