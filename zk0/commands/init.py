"""`zk0 init`: a first config from recordings."""

from pathlib import Path
from typing import Annotated

import typer

from zk0.commands.common import echo


def init(
    recordings: Annotated[
        list[str] | None,
        typer.Argument(help="Folders of LeRobot datasets, folders with such below, or ids on the hub."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write; must not exist.")] = Path("zk0.toml"),
    policy: Annotated[
        str, typer.Option(help="The base: a folder, an id on the hub, or asset:base.")
    ] = "lerobot/smolvla_base",
) -> None:
    """Write a commented config, with a client for each recording and its rename_map proposed.

    Without recordings, those in the working directory and in LeRobot's folder are taken.
    """
    from zk0.config import load_config
    from zk0.config.paths import absolute_path, check_target
    from zk0.errors import ConfigError
    from zk0.files import atomic
    from zk0.starter.draft import draft
    from zk0.starter.recordings import cameras_of, find

    target = absolute_path(out)
    if atomic.is_there(target):
        raise ConfigError(f"--out = {str(out)!r}: exists; choose a file that does not")
    check_target("--out", target.parent)
    if Path(policy).is_dir():
        policy = str(absolute_path(policy))
    found = find(recordings or [])
    text = draft(found, policy, cameras_of(policy), target.parent)
    atomic.write_bytes(target, text.encode())
    load_config(target)
    echo(f"written: {target}, with {', '.join(item.name for item in found)}")
    echo(f"read its rename_maps, then: zk0 check-data {out}")
