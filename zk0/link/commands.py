"""`zk0 link ...`: the coordinator's commands. Light to import; the work is behind them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

FolderArgument = Annotated[Path, typer.Argument(help="The link's folder.")]
NameArgument = Annotated[str, typer.Argument(help="The client, as in [[clients]] of the run's config.")]
SOON_DAYS = 30
"""A certificate that ends within so many days is told of."""


@app.command()
def keys(
    folder: FolderArgument,
    host: Annotated[list[str] | None, typer.Option(help="Name or address by which nodes reach it; repeatable.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the gate; 8124 when left out.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="A new server certificate of the same CA.")] = False,
) -> None:
    """Make a link's folder with its own CA and server certificate, or renew the certificate."""
    from zk0.config.paths import absolute_path
    from zk0.link import keys as made
    from zk0.link import settings
    from zk0.link.start import write_facts

    folder = absolute_path(folder)
    if renew:
        certificate = made.renew(folder, host or [])
        _say(f"renewed, valid until {certificate.not_valid_after_utc:%Y-%m-%d}; a link that runs takes it up by itself")
        return
    made.make_keys(folder, host or [], port)
    write_facts(folder, settings.load_link(folder))
    names = ", ".join(made.names_of(made.load_certificate(folder / settings.CERTIFICATE)))
    _say(f"made: {folder}, for {names}")
    _say(f"give each owner {folder / settings.CA}; keep {folder / settings.CA_KEY} to yourself")


@app.command()
def start(folder: FolderArgument) -> None:
    """Keep the link up: SuperLink, superexec and gate; until Ctrl-C."""
    from zk0.config.paths import absolute_path
    from zk0.link.start import start as keep_up

    keep_up(absolute_path(folder), _say)


@app.command()
def register(
    folder: FolderArgument,
    name: NameArgument,
    key: Annotated[Path, typer.Argument(help="The owner's key.pub.")],
) -> None:
    """Register a node's public key, and bind the client's name to it."""
    from zk0.config.paths import absolute_path
    from zk0.link.nodes import register as add

    client = add(absolute_path(folder), name, key)
    _say(f"registered {name}: node {client.node_id}, key {client.fingerprint}")
    _say("compare the fingerprint with what the owner reads out: zk0 node key HOME --show")


@app.command()
def revoke(folder: FolderArgument, name: NameArgument) -> None:
    """Take back a node's registration: its key is turned away from now on."""
    from zk0.config.paths import absolute_path
    from zk0.link.nodes import revoke as take_back

    client = take_back(absolute_path(folder), name)
    _say(f"revoked {name}: node {client.node_id}, key {client.fingerprint}")


@app.command()
def status(
    folder: FolderArgument,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the registered nodes: when each called last, versions, and what it offers."""
    from zk0.config.paths import absolute_path
    from zk0.link import settings
    from zk0.link.nodes import days_left, nodes
    from zk0.services.keeper import running

    folder = absolute_path(folder)
    settings.load_link(folder)
    found, left = nodes(folder), days_left(folder / settings.CERTIFICATE)
    keeper = running(folder)
    if as_json:
        console.print_json(
            data={"nodes": [node._asdict() for node in found], "keeper": keeper, "certificate_days": left}
        )
        return
    table = Table(box=None, header_style="bold")
    for name in ("client", "status", "last call", "from", "Flower", "offers"):
        table.add_column(name, overflow="fold")
    for node in found:
        seen = node.seen
        row = (node.client, node.status, seen.get("at", "never"), seen.get("address", ""))
        table.add_row(*map(Text, (*row, seen.get("flwr", ""), _offer(node.offer))))
    console.print(table if found else "no node is registered: zk0 link register FOLDER NAME KEY.pub")
    _say("the link runs" if keeper is not None else f"the link does not run: zk0 link start {folder}")
    if left < SOON_DAYS:
        _say(f"the server certificate ends in {left} days: zk0 link keys {folder} --renew")


def _offer(offer: dict[str, object]) -> str:
    """What a node said of itself, in a few words."""
    words = [
        f"{key} {value}" for key in ("version", "frames", "episodes", "at") if (value := offer.get(key)) is not None
    ]
    refused = offer.get("refuses")
    return ", ".join(words) + (f"; refuses {len(refused)} things" if isinstance(refused, list) and refused else "")


def _say(text: str) -> None:
    """Print as it is: a path may hold what rich takes for markup."""
    console.print(Text(text), soft_wrap=True)
