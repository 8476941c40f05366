"""Everything that is checked before a run, for every executor."""

from pathlib import Path

from zk0.aggregation.strategies import check_strategy
from zk0.config import RunConfig
from zk0.data.findings import DataReport
from zk0.executors import calls
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
    executor = ProcessExecutor(config.executor)
    found = _check_clients(config, executor)
    if config.evaluation.environments:
        executor.call(calls.check_environments, found.config)
    return found


def _check_clients(config: RunConfig, executor: ProcessExecutor) -> Preflight:
    if config.executor.kind != "docker":
        return executor.call(calls.preflight, config)
    from zk0.executors.docker import check as docker_check

    docker_check.check_engine(config)
    found = executor.call(calls.preflight, config)
    executor.call(calls.fetch, found.config)
    warnings = [*found.warnings, *docker_check.mount_warnings(config)]
    found = found.model_copy(update={"config": docker_check.settle_places(found.config), "warnings": warnings})
    docker_check.check_container(found.config)
    return found


def check_data(config: RunConfig, fix_to: Path | None = None) -> DataReport:
    """Every check of every dataset and of all its frames, in a process of its own; see `preflight.check_data`."""
    return ProcessExecutor(config.executor).call(calls.check_data, config, fix_to)
