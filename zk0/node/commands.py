"""`zk0 node ...`: an owner's commands. Light to import; the work is behind them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

HomeArgument = Annotated[Path, typer.Argument(help="The node's home: a folder with its key and node.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red"}


@app.command()
def key(
    home: HomeArgument,
    client: Annotated[str | None, typer.Option(help="The node's name in runs, as agreed.")] = None,
    link: Annotated[str | None, typer.Option(help="The link's address, host:port.")] = None,
    root: Annotated[Path | None, typer.Option(help="The folder of the recordings.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the public half of a key that is there.")] = False,
) -> None:
    """Make a node's home with a key of its own, and print the public half and its fingerprint."""
    from zk0.config.paths import absolute_path
    from zk0.node import settings
    from zk0.node.key import load_key, make_home
    from zk0.services.public_keys import fingerprint

    home = absolute_path(home)
    if not show:
        given = {"client": client, "link": link, "root": None if root is None else str(absolute_path(root))}
        make_home(home, {name: value for name, value in given.items() if value is not None})
        _say(f"made: {home}")
    public = load_key(home).public_key()
    _say((home / settings.PUBLIC_KEY).read_text().strip())
    _say(f"fingerprint: {fingerprint(public)}")
    if not show:
        _say(f"give {home / settings.PUBLIC_KEY} to the coordinator, and put the ca.pem that he gives you into {home}")
        _say(f"then fill in {home / settings.SETTINGS}, and: zk0 node check {home}")


@app.command()
def check(
    home: HomeArgument,
    recordings: Annotated[bool, typer.Option(help="Look at every frame of the recordings, too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Look at everything that the node needs: key, link, TLS, clock, GPU, disk, recordings."""
    from zk0.config.paths import absolute_path
    from zk0.errors import BadInputError
    from zk0.node import check as checks
    from zk0.node.settings import load

    home = absolute_path(home)
    node = load(home)
    found = checks.check(home, node)
    if not as_json:
        table = Table("check", "verdict", "seen", box=None, header_style="bold")
        for finding in found:
            table.add_row(finding.check, Text(finding.verdict, style=COLOURS[finding.verdict]), Text(finding.seen))
        console.print(table)
    told: dict[str, object] = {"checks": [finding._asdict() for finding in found]}
    errors = [finding.check for finding in found if finding.verdict == "error"]
    if recordings:
        errors += _recordings(node, told, as_json=as_json)
    if as_json:
        console.print_json(data=told)
    if errors:
        where = "what was found" if as_json else "the table"
        raise BadInputError(f"the node cannot start so: see {', '.join(dict.fromkeys(errors))} in {where}")


@app.command(name="dry-run")
def dry_run(
    home: HomeArgument,
    config: Annotated[
        str | None, typer.Argument(help="The run's config, as the coordinator gave it; sim if none.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what would leave the node in a run, and what of it the owner's rules refuse; nothing is sent."""
    from zk0.config import load_config
    from zk0.config.paths import absolute_path
    from zk0.node.dry_run import dry_run as tried
    from zk0.node.settings import load

    home = absolute_path(home)
    found = tried(home, load(home), load_config(config))
    if as_json:
        console.print_json(data=found.record())
        return
    table = Table("when", box=None, header_style="bold")
    table.add_column("what leaves", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("bytes", no_wrap=True)
    for item in found.leaves:
        table.add_row(item.when, Text(item.what), item.shape, f"{item.size:,}" if item.size else "")
    console.print(table)
    _say(f"in a round: {found.round_bytes:,} bytes of tensors; the recordings themselves never leave")
    _say(f"digest of this config, for rules.config_digests: {found.digest}")
    for line in found.refusals:
        _say(f"refused: {line}")


@app.command()
def start(home: HomeArgument) -> None:
    """Keep the node up, ready for work that the rules allow; until Ctrl-C."""
    from zk0.config.paths import absolute_path
    from zk0.node.start import start as keep_up

    keep_up(absolute_path(home), _say)


@app.command()
def status(
    home: HomeArgument,
    as_json: JsonOption = False,
) -> None:
    """Show whether the node runs, what it did last, and how much has left it."""
    from zk0.config.paths import absolute_path
    from zk0.node.status import status as told

    found = told(absolute_path(home))
    if as_json:
        console.print_json(data=found.record())
        return
    for line in found.lines():
        _say(line)


@app.command()
def log(
    home: HomeArgument,
    number: Annotated[int, typer.Option("-n", help="Lines from the end.")] = 50,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="What left and what was refused, in place of the log.")
    ] = False,
) -> None:
    """Show the end of the node's log, or of its ledger."""
    from zk0.config.paths import absolute_path
    from zk0.node.status import last_lines

    for line in last_lines(absolute_path(home), number, ledger=ledger):
        _say(line)


def _recordings(node: object, told: dict[str, object], *, as_json: bool) -> list[str]:
    """Tell what check-data finds in the node's recordings; gives the checks that found errors."""
    from functools import partial

    from zk0.errors import Zk0Error
    from zk0.node import check as checks
    from zk0.node.settings import NodeSettings
    from zk0.report.checking import checking
    from zk0.report.findings import findings_table

    assert isinstance(node, NodeSettings)
    try:
        with checking(Console(quiet=as_json)) as watch:
            found = checks.recordings(node, partial(checks.examined, watch=watch))
    except Zk0Error as error:
        told["recordings"] = [{"check": "recordings", "verdict": "error", "seen": str(error)}]
        if not as_json:
            _say(f"recordings: {error}")
        return ["recordings"]
    told["recordings"] = [finding.model_dump() for finding in found.findings]
    if not as_json:
        console.print(findings_table(found))
    return [f"recordings: {finding.check}" for finding in found.of("error")]


def _say(text: str) -> None:
    """Print as it is: a path may hold what rich takes for markup."""
    console.print(Text(text), soft_wrap=True)
