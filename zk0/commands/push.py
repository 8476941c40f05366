"""`zk0 push`: a round's policy to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from zk0.commands.common import JsonOption, OutputsOption, console, echo, notes, open_run


def push(  # noqa: PLR0913, PLR0917 - each an option
    name: Annotated[str, typer.Argument(help="The run.")],
    repo: Annotated[str, typer.Argument(help="The repository: owner/name.")],
    wanted: Annotated[str, typer.Option("--round", help="best, last, or a round's number.")] = "best",
    merge: Annotated[bool, typer.Option(help="Merge the adapters into plain weights.")] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="Of the policy, as the hub spells it: apache-2.0.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="For everybody; private when left out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the files and show them, and send nothing.")] = False,
    outputs: OutputsOption = Path("outputs"),
    as_json: JsonOption = False,
) -> None:
    """Send a round's policy with a model card to the Hugging Face hub; broken off, the same command goes on.

    The token is that of `hf auth login` or HF_TOKEN; it is written nowhere. The card tells the results with their
    intervals, the digests of the data, versions and the config without the places on this machine.
    """
    from zk0.publish import push as sending

    parcel = sending.pack(open_run(outputs, name), repo, wanted, merge=merge, licence=licence)
    if as_json:
        sent = None if dry_run else sending.send(parcel, repo, private=not public)
        files = [{"path": path, "bytes": size} for path, size in parcel.files]
        console.print_json(data={"round": parcel.server_round, "files": files, "sent": sent})
        if sent is not None:
            sending.tidy(parcel)
        return
    table = Table("file", "bytes", box=None, header_style="bold")
    for path, size in parcel.files:
        table.add_row(path, f"{size:,}")
    console.print(table)
    if dry_run:
        echo(f"nothing is sent; the files are in {parcel.folder}")
        return
    echo(f"sending round {parcel.server_round} to {repo} ...", to=notes)
    echo(sending.send(parcel, repo, private=not public))
    sending.tidy(parcel)
