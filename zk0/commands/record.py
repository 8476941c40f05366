"""`zk0 record`: demonstrations in the simulator."""

from pathlib import Path
from typing import Annotated

import typer

from zk0.commands.common import echo


def record(
    setting: Annotated[str, typer.Argument(help="A setting of the simulator.")],
    out: Annotated[Path, typer.Option(help="The dataset's folder; must not exist.")],
    episodes: Annotated[int, typer.Option(help="Successful episodes to record.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the first episode.")] = 0,
) -> None:
    """Record demonstrations of the scripted expert in the SO-101 simulator as a LeRobot dataset."""
    from zk0.config.paths import check_target
    from zk0.errors import ConfigError

    try:
        from zk0.sim.record import record as write
    except ImportError as error:  # its package says what to install
        raise ConfigError(f"zk0 record: {error}") from error
    try:
        write(setting, episodes, check_target("--out", out), seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    echo(f"recorded: {out}")
