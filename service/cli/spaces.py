"""``frontier spaces``"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from search_spaces.drawing import drawing, svg
from search_spaces.plugins import load, names
from search_spaces.space import Genes, InvalidArchitecture, InvalidSpace, SearchSpace, Unsupported
from service.cli.common import (
    AsJson,
    CommandError,
    Url,
    body,
    connect,
    out,
    parse_json,
    show_fields,
    show_json,
    show_table,
)
from service.core.errors import Invalid
from service.core.spaces import build_space
from service.wire.spaces import SpaceIn, SpaceOut, SpaceSpec

app = typer.Typer(
    help="Search spaces. Commands take the NAME of a stored space, or a plug-in with its options: then no server is "
    "asked.",
    no_args_is_help=True,
)

HEADINGS = {
    "macs": "MACs",
    "params": "parameters",
    "plugin": "plug-in",
    "uniform_over": "uniform over",
    "counted": "counts",
    "builds": "builds networks",
    "supernet": "super-network",
}
OF_PLUGINS = "--options / --identity"
LONGEST = 200
"""Characters of an architecture's notation in a picture's title."""

Stored = Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a stored space.", show_default=False)]
Plugin = Annotated[str | None, typer.Option(help="A plug-in instead of a stored space; no server is asked.")]
Options = Annotated[
    str | None, typer.Option(help="The plug-in's options: a JSON object, or @FILE; its defaults if left out.")
]
Identity = Annotated[
    str | None, typer.Option(help="When two rows are the same architecture: function, the default, or row.")
]


@app.command("list")
def list_spaces(
    plugins: Annotated[
        bool, typer.Option("--plugins", help="List the plug-ins, with their default options; no server is asked.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List search spaces, or the plug-ins that they are made with."""
    if plugins:
        _list_plugins(as_json)
        return
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
def show(
    name: Stored = None,
    plugin: Plugin = None,
    options: Options = None,
    identity: Identity = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show a search space and its choices."""
    asked = _asked(name, plugin, options, identity, url)
    if isinstance(asked, SpaceOut):
        if as_json:
            show_json(asked)
            return
        show_fields(asked, as_json=False, without=frozenset({"choices"}))
        # Counted here: the number is too large for JSON readers. A plug-in of the server's may be absent here.
        with suppress(Invalid):
            _show_facts(_facts(_built(asked)))
        choices = [(each.name, each.options) for each in asked.choices]
    else:
        space = _built(asked)
        choices = [(choice.name, list(choice.options)) for choice in space.choices]
        filled = asked.model_copy(update={"options": dict(space.options)})
        if as_json:
            described = [{"name": each, "options": listed} for each, listed in choices]
            show_json(filled.model_dump() | {"digest": space.digest} | _facts(space) | {"choices": described})
            return
        show_fields(filled, as_json=False)
        _show_facts({"is": _told(type(space)), "digest": space.digest} | _facts(space))
    show_table(["choice", "options"], ((each, ", ".join(map(str, listed))) for each, listed in choices))


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name for the space.")],
    plugin: Annotated[str, typer.Option(help="Plug-in: one of `frontier spaces list --plugins`.")],
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
    name: Stored = None,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    plugin: Plugin = None,
    options: Options = None,
    identity: Identity = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Draw architectures at random, with their costs and their notation where the space has them."""
    space = _built(_asked(name, plugin, options, identity, url))
    genes = space.sample(count, np.random.default_rng(seed))
    columns: dict[str, Sequence[Any]] = {"key": space.keys(genes)}
    columns |= {metric: values.tolist() for metric, values in sorted(space.cost(genes).items())}
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
    shown = [column for column in columns if column not in hidden]
    show_table([HEADINGS.get(each, each) for each in shown], ([row[each] for each in shown] for row in drawn))


@app.command("draw")
def draw(
    name: Stored = None,
    architecture: Annotated[
        str | None,
        typer.Argument(
            metavar="ARCHITECTURE",
            help="In the space's notation, as JSON (an object of choices and options, or a list of genes), or @FILE.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; standard output if left out.")
    ] = None,
    plugin: Plugin = None,
    options: Options = None,
    identity: Identity = None,
    url: Url = None,
) -> None:
    """Draw an architecture as SVG: spaces draw NAME ARCHITECTURE, or spaces draw --plugin PLUGIN ARCHITECTURE."""
    if plugin is not None and architecture is None:
        name, architecture = None, name
    if architecture is None:
        raise typer.BadParameter("is missing: a notation, JSON, or @FILE", param_hint="ARCHITECTURE")
    space = _built(_asked(name, plugin, options, identity, url))
    genes = _architecture(space, architecture)
    try:
        picture = drawing(space.graphs(genes))
    except Unsupported as error:
        raise CommandError(str(error)) from error
    with suppress(Unsupported):
        architecture = space.notation(genes)[0]
    words = " ".join(architecture.split())
    text = svg(picture, f"{name or plugin} {words if len(words) <= LONGEST else words[: LONGEST - 1] + '…'}")
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        typer.echo(str(output), err=True)


# ---------------------------------------------------------------------- which space


def _asked(
    name: str | None, plugin: str | None, options: str | None, identity: str | None, url: str | None
) -> SpaceSpec:
    """The space that a command is about: the server's of this name, or what the options say."""
    if plugin is None:
        if name is None:
            raise typer.BadParameter("is missing: the name of a stored space, or --plugin", param_hint="NAME")
        if options is not None or identity is not None:
            raise typer.BadParameter("is for --plugin: a stored space has its own", param_hint=OF_PLUGINS)
        with connect(url) as client:
            return client.spaces.get(name)
    if name is not None:
        raise typer.BadParameter("give the name of a stored space or a plug-in, not both", param_hint="--plugin")
    read = None if options is None else parse_json(options, "--options")
    spec: SpaceSpec = body(SpaceSpec, plugin=plugin, options=read, identity=identity)
    return spec


def _built(spec: SpaceSpec) -> SearchSpace:
    """The space. Wrong options on the command line are a usage error that names them."""
    try:
        return build_space(spec.plugin, spec.options, spec.identity)
    except Invalid as error:
        if isinstance(spec, SpaceOut):
            raise
        raise typer.BadParameter(f"{error.field}: {error.message}", param_hint="--plugin") from error


def _architecture(space: SearchSpace, given: str) -> Genes:
    """(1, d): what was given on the command line, or in the file after ``@``. A usage error names row and field."""
    hint = "ARCHITECTURE"
    if given.startswith("@"):
        try:
            given = Path(given[1:]).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"cannot be read: {error}", param_hint=hint) from error
    try:
        return _read(space, given)
    except (InvalidArchitecture, Unsupported) as error:
        raise typer.BadParameter(str(error), param_hint=hint) from error


def _read(space: SearchSpace, given: str) -> Genes:
    """(1, d). A list of integers is genes, an object that names a choice is a config; all else is in the notation,
    which may be JSON, too."""
    value: Any = given
    with suppress(ValueError, RecursionError):
        value = json.loads(given)
    if isinstance(value, list) and value and all(type(gene) is int for gene in value):
        return space.check([value])
    if isinstance(value, dict) and value.keys() & {choice.name for choice in space.choices}:
        return space.from_configs([value])
    try:
        return space.from_notation([value if isinstance(value, str) else given])
    except Unsupported:
        if not isinstance(value, dict):
            raise
        return space.from_configs([value])


# ---------------------------------------------------------------------- what is said of it


def _facts(space: SearchSpace) -> dict[str, Any]:
    """What follows from a space. The number of architectures is text: few readers of JSON keep large ones."""
    known = space.cardinality
    return {
        "architectures": None if known is None else str(known),
        "uniform_over": "architectures" if space.uniform else "rows",
        "counted": sorted(space.counted),
        "builds": _gives(space.build),
        "supernet": _gives(space.supernet),
    }


def _gives(method: Any) -> bool:
    """Whether a method ever returns: one that always raises says so. Asking it would load torch and build networks."""
    return str(inspect.get_annotations(method).get("return")).rpartition(".")[2] not in ("NoReturn", "Never")


def _told(cls: type) -> str:
    """The first sentence of what a plug-in's module says of it."""
    return (inspect.getdoc(sys.modules[cls.__module__]) or inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")


def _show_facts(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        out.print(f"[bold]{HEADINGS.get(name, name)}[/bold] {_cell(name, value)}", highlight=False)


def _cell(name: str, value: Any) -> str:
    """A fact as people read it."""
    match value:
        case None:
            return "not known" if name == "architectures" else "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(HEADINGS.get(str(each), str(each)) for each in value) or "nothing"
        case str() if name == "architectures":
            return f"{int(value):,}"
        case _:
            return str(value)


def _list_plugins(as_json: bool) -> None:
    """Each plug-in with what follows from its default options; nothing does where it has none."""
    listed: list[dict[str, Any]] = []
    for plugin in names("spaces"):
        cls = load("spaces", plugin)
        facts: dict[str, Any] = {"builds": _gives(cls.build), "supernet": _gives(cls.supernet)}
        with suppress(InvalidSpace, TypeError):
            space: SearchSpace = cls()
            facts |= {"choices": len(space.choices)} | _facts(space)
        listed.append({"plugin": plugin} | facts | {"description": _told(cls)})
    columns = ["plugin", "choices", "architectures", "uniform_over", "counted", "builds", "supernet", "description"]
    if as_json:
        show_json([{column: each.get(column) for column in columns} for each in listed])
        return
    # What fits eighty columns; `show --plugin` says the rest.
    narrow = ["plugin", "choices", "architectures", "uniform_over", "builds", "supernet"]
    show_table(
        ["plug-in", "choices", "how many", "uniform over", "builds", "super-net"],
        ([_short(column, each[column]) if column in each else "-" for column in narrow] for each in listed),
    )


def _short(name: str, value: Any) -> str:
    """A fact as a cell of a narrow table: large numbers in four digits."""
    large = name == "architectures" and value is not None and len(value) > 9
    return f"{int(value):.3e}" if large else _cell(name, value)
