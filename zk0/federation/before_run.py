"""Everything that is checked before a run, for every executor."""

from collections.abc import Callable
from pathlib import Path

from zk0.aggregation.strategies import check_strategy
from zk0.config import RunConfig
from zk0.data.findings import DataReport
from zk0.errors import DatasetError
from zk0.executors import calls
from zk0.executors.choice import check_clients
from zk0.executors.process import ProcessExecutor
from zk0.preflight.records import Preflight


def check(config: RunConfig) -> Preflight:
    """Look at data, policy, executor and environments before anything is written.

    What lies on the hub is fetched for containers. Environments are tried here, whatever the executor, for rollouts
    always run on this machine: see `zk0.executors.choice.make_executor`.

    Raises:
        BadInputError: the first thing that would fail.
    """
    check_strategy(config)
    found = check_clients(config)
    if config.evaluation.environments:
        ProcessExecutor(config.executor).call(calls.check_environments, found.config)
    return found


def strictly(check: Callable[[RunConfig], Preflight]) -> Callable[[RunConfig], Preflight]:
    """The same checks, of which a warning is an error."""

    def checked(config: RunConfig) -> Preflight:
        found = check(config)
        if found.warnings:
            raise DatasetError("\n".join([*found.warnings, f"--strict: {len(found.warnings)} warnings are errors"]))
        return found

    return checked


def check_data(config: RunConfig, fix_to: Path | None = None) -> DataReport:
    """Every check of every dataset and of all its frames, in a process of its own; see `preflight.check_data`."""
    return ProcessExecutor(config.executor).call(calls.check_data, config, fix_to)
