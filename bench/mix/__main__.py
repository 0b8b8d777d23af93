"""Make, convert and replay mixes: `python -m bench.mix make --nodes 200 roll.mix`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.errors import BenchError
from bench.material import HOST, Material
from bench.mix import access_log, requests
from bench.mix.replay import Server, replay, summary, table
from bench.mix.rollout import Image, Rollout, image_of, make, make_image

MATERIAL = Path(__file__).parents[2] / "build" / "bench" / "work" / "material"
MODEL = Rollout()

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Mixes: what many clients ask for, and when."
)
console = Console(highlight=False, soft_wrap=True)
Out = Annotated[Path, typer.Argument(help="the mix file to write")]


def fail(error: Exception) -> typer.Exit:
    console.print(f"FAILED: {error}", markup=False)
    return typer.Exit(1)


@app.command("make")
def make_mix(
    out: Out,
    nodes: Annotated[int, typer.Option(help="machines that pull")] = MODEL.nodes,
    seconds: Annotated[float, typer.Option(help="in which all of them begin")] = MODEL.seconds,
    waves: Annotated[int, typer.Option(help="groups of nodes, one after another")] = MODEL.waves,
    spread: Annotated[float, typer.Option(help="share of a wave's time in which it begins")] = MODEL.spread,
    parallel: Annotated[int, typer.Option(help="blobs at a time on a node")] = MODEL.parallel,
    node_rate: Annotated[float, typer.Option(help="bytes/s that a node can take")] = MODEL.node_rate,
    drops: Annotated[float, typer.Option(help="share of layers that break off")] = MODEL.drops,
    ranged: Annotated[float, typer.Option(help="share of nodes that ask for ranges")] = MODEL.ranged,
    range_size: Annotated[int, typer.Option(help="bytes of a range")] = MODEL.range_size,
    fetchers: Annotated[int, typer.Option(help="ranges of a layer at a time")] = MODEL.fetchers,
    seed: Annotated[int, typer.Option(help="another one, another mix")] = MODEL.seed,
    image: Annotated[
        list[str] | None,
        typer.Option(help="HOST/REPOSITORY:TAG=FILE, an image manifest; repeatable. Else one is made"),
    ] = None,
    image_size: Annotated[int, typer.Option(help="bytes of the image that is made")] = 20_000_000,
    host: Annotated[str, typer.Option(help="the registry of the image that is made")] = HOST,
    material: Annotated[Path, typer.Option(help="where the image that is made is kept")] = MATERIAL,
) -> None:
    """Write the mix of a deployment that rolls: HEAD of the tag, manifest, layers in parallel."""
    try:
        rollout = Rollout(
            nodes, seconds, waves, spread, parallel, node_rate, drops, ranged, range_size, fetchers, seed
        )
        images = [given(each) for each in image or ()] or [make_image(Material(material), image_size, host)]
        made = make(rollout, images)
        about = f"{rollout} of {', '.join(f'{i.host}/{i.repository}:{i.tag}' for i in images)}"
        requests.write(out, made, about)
    except (BenchError, ValueError, OSError) as error:
        raise fail(error) from None
    total = sum(request.bytes or 0 for request in made if request.method == "GET")
    console.print(f"{out}: {len(made)} requests, at most {total / 1e9:.2f} GB, {made[-1].at:.1f} s")


def given(option: str) -> Image:
    reference, _, file = option.partition("=")
    return image_of(reference, Path(file).read_bytes())


@app.command("from-log")
def from_log(
    log: Annotated[Path, typer.Argument(help="an access log of regproxy's, in either of its formats")],
    out: Out,
    registry: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of one that is not at 443; repeatable")
    ] = None,
) -> None:
    """Write the mix that an access log tells of."""
    try:
        ports = {host: int(port) for host, _, port in (each.rpartition(":") for each in registry or ())}
        made = access_log.convert(log, ports)
        requests.write(out, made.requests, f"made of {log.name}")
    except (BenchError, ValueError, OSError) as error:
        raise fail(error) from None
    clients = len({request.client for request in made.requests})
    console.print(f"{out}: {len(made.requests)} requests of {clients} clients, {made.requests[-1].at:.1f} s")
    for reason, count in sorted(made.left_out.items()):
        console.print(f"left out: {count} ({reason})", markup=False)


@app.command("replay")
def replay_mix(
    file: Annotated[Path, typer.Argument(help="a mix file")],
    proxy: Annotated[str, typer.Option(help="HOST:PORT to CONNECT through")] = "",
    mirror: Annotated[str, typer.Option(help="HOST:PORT of a mirror, asked without CONNECT")] = "",
    direct: Annotated[str, typer.Option(help="HOST:PORT of a server that is each host of the mix")] = "",
    ca: Annotated[Path | None, typer.Option(help="whom to trust; without it, plain HTTP")] = None,
    speed: Annotated[float, typer.Option(help="2: in half the time")] = 1.0,
    verify: Annotated[bool, typer.Option(help="sha256 of every body, not just each item's first")] = False,
    realtime: Annotated[
        bool, typer.Option(help="ahead of all else on its core, where that is allowed")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="a JSON file of all figures")] = None,
) -> None:
    """Ask for what a mix says, when it says so. Status 1: a wrong answer, or a generator too slow for it."""
    if sum(map(bool, (proxy, mirror, direct))) != 1:
        raise typer.BadParameter("give one of --proxy, --mirror and --direct")
    if speed <= 0:
        raise typer.BadParameter("--speed has to be more than 0")
    server = Server(proxy or mirror or direct, ca, proxy=bool(proxy), mirror=bool(mirror))
    try:
        result = replay(requests.read(file), server, speed=speed, verify=verify, realtime=realtime)
    except BenchError as error:
        raise fail(error) from None
    console.print(table(result))
    console.print(summary(result), markup=False)
    if out:
        out.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")


if __name__ == "__main__":
    app()
