"""`zk0 export`: a round's policy, and how it is brought onto an arm."""

from pathlib import Path
from typing import Annotated

import typer

from zk0.commands.common import OutputsOption, echo, notes, open_run


def export(
    name: Annotated[str, typer.Argument(help="The run.")],
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist.")],
    number: Annotated[int | None, typer.Option("--round", help="A committed round; the newest when left out.")] = None,
    merge: Annotated[bool, typer.Option(help="Merge the adapters into plain weights.")] = False,
    client: Annotated[
        str | None, typer.Option(help="For this client's arm, where each has statistics of its own.")
    ] = None,
    outputs: OutputsOption = Path("outputs"),
) -> None:
    """Write a round's policy as a LeRobot pretrained_model folder, and say how it is brought onto an arm.

    The line for `lerobot-rollout` names the cameras as the client's recordings do; port, the cameras' indices and the
    task are for you to fill in.
    """
    from zk0.federation.export import export_round
    from zk0.publish.arm import rollout_line

    store = open_run(outputs, name)
    written = export_round(store, out, number, merge=merge, client=client)
    echo(f"written: {written}")
    for item in store.config.clients:
        if client in (None, item.name):
            echo(f"for the arm of {item.name}:", to=notes)
            echo(rollout_line(item, written), to=notes)
