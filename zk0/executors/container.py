"""What runs inside a container: `python -m zk0.executors.container work TASK SECONDS`, or `versions`."""

import json
import os
import signal
import sys

from zk0.executors import worker
from zk0.run_store import PACKAGES, package_version


def main(arguments: list[str]) -> None:
    """Do one piece of work, or print the versions of what does it as JSON.

    Args:
        arguments: `work`, a ClientTask as JSON, and the seconds after which the process ends itself even where no
            orchestrator is left to do it; or `versions`.
    """
    if arguments == ["versions"]:
        sys.stdout.write(json.dumps({package: package_version(package) for package in PACKAGES}))
        return
    command, task, seconds = arguments
    if command != "work":
        sys.exit(f"unknown command {command!r}")
    os.umask(0o022)
    signal.setitimer(signal.ITIMER_REAL, float(seconds))  # SIGALRM kills: nothing handles it
    worker.work(task)


if __name__ == "__main__":
    main(sys.argv[1:])
