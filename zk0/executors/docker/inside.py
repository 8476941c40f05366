"""What runs inside a container: `python -m zk0.executors.docker.inside work TASK SECONDS`, or `versions [...]`."""

import importlib.util
import json
import os
import sys
import warnings

from zk0.executors.worker import work
from zk0.runs.versions import PACKAGES, package_version

PLUGIN = "plugin="


def main(arguments: list[str]) -> None:
    """Do one piece of work, or print the versions of what does it as JSON.

    Args:
        arguments: `work`, a ClientTask as JSON, and the seconds after which the process ends itself even where no
            orchestrator is left to do it; or `versions`, `cuda` where the container was given a GPU, and
            `plugin=NAME` where a policy needs that package.
    """
    if arguments[0] == "versions":
        plugins = [word.removeprefix(PLUGIN) for word in arguments if word.startswith(PLUGIN)]
        sys.stdout.write(json.dumps(_versions(cuda="cuda" in arguments) | _lacking(plugins)))
        return
    command, task, seconds = arguments
    if command != "work":
        sys.exit(f"unknown command {command!r}")
    os.umask(0o022)
    work(task, float(seconds))


def _versions(*, cuda: bool) -> dict[str, str]:
    """Package -> version; under `cuda`, where that is asked, why torch cannot use the GPU, empty where it can."""
    found = {package: package_version(package) for package in PACKAGES}
    return found | {"cuda": _lacking_cuda()} if cuda else found


def _lacking(plugins: list[str]) -> dict[str, str]:
    """Under `plugin`, which of these packages are not there; the work itself imports them."""
    roots = {name.partition(".")[0] for name in plugins}
    return {"plugin": ", ".join(sorted(root for root in roots if importlib.util.find_spec(root) is None))}


def _lacking_cuda() -> str:
    import torch

    with warnings.catch_warnings(record=True) as said:  # of a driver that is too old torch tells in a warning alone
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    return " ".join(str(said[-1].message).split()) if said else "torch.cuda.is_available() is False"


if __name__ == "__main__":
    main(sys.argv[1:])
