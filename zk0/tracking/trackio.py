"""trackio: a SQLite file, which `trackio show` reads and `trackio sync` brings to a Space."""

import os
from collections.abc import Mapping
from datetime import datetime

from zk0.tracking.tracker import Figures, Told

SENDS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""By these trackio would send in a thread of its own, and nobody could say which steps have arrived."""


class Trackio:
    """A step is a row; which there are is asked of trackio's own storage, in the run directory or in TRACKIO_DIR.

    Its storage is what trackio's API asks, and is not documented by itself; tests/integration/test_trackers.py holds
    what is called of it.

    Args:
        told: of the run.
    """

    def __init__(self, told: Told) -> None:
        for name in SENDS:
            os.environ.pop(name, None)
        if told.offline:
            os.environ["TRACKIO_DIR"] = str(told.folder)  # read when it is imported
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        self._storage = SQLiteStorage
        self._project, self._name = told.project, f"{told.name}-{told.id[:6]}"
        self._run = trackio.init(
            self._project,
            name=self._name,
            config=dict(told.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def missing(self, rounds: Mapping[int, Figures]) -> Mapping[int, Figures]:
        """The rounds without a row."""
        there = {row["step"] for row in self._storage.get_logs(self._project, self._name)}
        return {number: figures for number, figures in rounds.items() if number not in there}

    def log(self, server_round: int, at: datetime, figures: Figures) -> None:
        """Write the round's row; `at` is not trackio's to be told."""
        del at
        self._run.log(dict(figures), step=server_round)

    def close(self) -> None:
        """Have the rows written."""
        self._run.finish()  # type: ignore[no-untyped-call]
