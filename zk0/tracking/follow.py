"""Has the wanted trackers brought up to date, each by a process of its own: no fault of theirs reaches the run."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loguru import logger

from zk0.tracking.send import WITHIN_S

GRACE_S = 5
"""Beyond WITHIN_S, for a machine that is busy."""


class Follower:
    """Follows one run; what is wrong with a tracker is said once, and tried again after every round.

    Args:
        run_dir: of the run.
        kinds: tracking.kinds.
    """

    def __init__(self, run_dir: Path, kinds: Sequence[str]) -> None:
        self._run_dir = run_dir
        self._kinds = kinds
        self._said: set[str] = set()

    def follow(self, server_round: int) -> None:
        """Have every tracker given the rounds that it has not; comes back when they are through, or their time is.

        Args:
            server_round: the newest that is committed.
        """
        begun = [(kind, self._begun(kind)) for kind in self._kinds]
        for kind, process in begun:
            if (fault := _end_of(process)) is not None and kind not in self._said:
                self._said.add(kind)
                logger.warning(
                    "tracker {} has not round {}: {}; the run goes on without it, and it is tried again after every "
                    "round, and by `zk0 resume {}`",
                    *(kind, server_round, fault, self._run_dir.name),
                )

    def _begun(self, kind: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "zk0.tracking.send", str(self._run_dir), kind, str(WITHIN_S)]
        return subprocess.Popen(  # in a session of its own: Ctrl-C ends the run, and what is committed is sent
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )


def _end_of(process: subprocess.Popen[str]) -> str | None:
    """Why it failed, in its own words; None where it has not."""
    late = f"it took longer than {WITHIN_S} s"
    try:
        said = process.communicate(timeout=WITHIN_S + GRACE_S)[0].strip()
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return late
    if process.returncode == 0:
        return None
    return said or (late if process.returncode == -signal.SIGALRM else f"exit {process.returncode}")
