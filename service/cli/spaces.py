"""``frontier spaces``"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
import typer

from search_spaces.space import Unsupported
from service.cli.common import AsJson, Url, body, connect, out, parse_json, show_fields, show_json, show_table
from service.core.errors import Invalid
from service.core.spaces import build_space
from service.wire.spaces import SpaceIn

app = typer.Typer(help="Search spaces.", no_args_is_help=True)

HEADINGS = {"macs": "MACs", "params": "parameters"}

Name = Annotated[str, typer.Argument(help="Name of the space.")]


@app.command("list")
def list_spaces(url: Url = None, as_json: AsJson = False) -> None:
    """List search spaces."""
    with connect(url) as client:
        spaces = list(client.spaces.list())
    if as_json:
        show_json(spaces)
        return
    show_table(
        ["name", "plug-in", "identity", "choices", "created"],
        ((s.name, s.plugin, s.identity, len(s.choices), f"{s.created_at:%Y-%m-%d %H:%M}") for s in spaces),
    )


@app.command("show")
def show(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Show a search space and its choices."""
    with connect(url) as client:
        space = client.spaces.get(name)
    if as_json:
        show_json(space)
        return
    show_fields(space, as_json=False, without=frozenset({"choices"}))
    # Counted here: the number is too large for JSON readers. A plug-in of the server's may be absent here.
    with suppress(Invalid):
        known = build_space(space.plugin, space.options, space.identity).cardinality
        out.print(f"[bold]architectures[/bold] {'not known' if known is None else f'{known:,}'}", highlight=False)
    show_table(["choice", "options"], ((c.name, ", ".join(map(str, c.options))) for c in space.choices))


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name for the space.")],
    plugin: Annotated[str, typer.Option(help="Plug-in: mobilenetv3, nasbench201, declared, or one of your own.")],
    options: Annotated[str, typer.Option(help="Its options: a JSON object, or @FILE.")] = "{}",
    identity: Annotated[
        str, typer.Option(help="When two rows are the same architecture: function or row.")
    ] = "function",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Create a search space."""
    wanted = body(SpaceIn, name=name, plugin=plugin, options=parse_json(options, "--options"), identity=identity)
    with connect(url) as client:
        show_fields(client.spaces.create(wanted), as_json)


@app.command("sample")
def sample(
    name: Name,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Draw architectures at random, with their costs and their notation where the space has them."""
    with connect(url) as client:
        stored = client.spaces.get(name)
    space = build_space(stored.plugin, stored.options, stored.identity)
    genes = space.sample(count, np.random.default_rng(seed))
    columns: dict[str, Sequence[Any]] = {"key": space.keys(genes)}
    columns |= {name: values.tolist() for name, values in sorted(space.cost(genes).items())}
    with suppress(Unsupported):
        columns["notation"] = space.notation(genes)
    columns["config"] = space.to_configs(genes)
    columns["genes"] = genes.tolist()
    drawn = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if as_json:
        show_json(drawn)
        return
    # The notation says all that the config does.
    hidden = {"genes", "config"} if "notation" in columns else {"genes"}
    shown = [name for name in columns if name not in hidden]
    show_table([HEADINGS.get(name, name) for name in shown], ([row[name] for name in shown] for row in drawn))
