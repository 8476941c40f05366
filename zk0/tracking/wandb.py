"""Weights & Biases: online a run of our own id goes on; offline a folder for `wandb sync` is written anew each time."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import wandb

from zk0.files import atomic
from zk0.tracking.tracker import Figures, Told


class WeightsAndBiases:
    """Its run is resumed by its id; the service itself says which step comes next, and takes none twice.

    Args:
        told: of the run.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        self._scratch = told.folder / "under-way"
        _remove(self._scratch)  # of one that was killed
        atomic.make_folder(self._scratch)
        self._run = wandb.init(
            project=told.project,
            id=told.id,
            name=told.name,
            config=dict(told.config),
            dir=self._scratch,
            mode="offline" if told.offline else "online",
            resume=None if told.offline else "allow",
            settings=wandb.Settings(
                silent=True, console="off", save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True
            ),
        )

    def missing(self, rounds: Mapping[int, Figures]) -> Mapping[int, Figures]:
        """Online those from the run's next step on; offline all, for the folder is written anew."""
        if self._told.offline or not self._run.resumed:
            return rounds
        return {number: figures for number, figures in rounds.items() if number >= self._run.step}

    def log(self, server_round: int, at: datetime, figures: Figures) -> None:
        """Write the round as a step."""
        self._run.log({**figures, "_timestamp": at.timestamp()}, step=server_round)

    def close(self) -> None:
        """Send what is left; or put the new folder into the place of the old one."""
        made = Path(self._run.dir).parent
        self._run.finish()
        if self._told.offline:
            place = self._told.folder / f"offline-run-{self._told.created:%Y%m%d_%H%M%S}-{self._told.id}"
            _remove(place)
            atomic.move(made, place)
        _remove(self._scratch)


def _remove(folder: Path) -> None:
    if atomic.is_there(folder):
        atomic.remove_folder(folder)
