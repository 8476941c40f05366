"""Everything that is checked before a run, for every executor."""

from collections.abc import Callable
from pathlib import Path

from zk0.aggregation.strategies import check_strategy
from zk0.config import SUPERLINK, RunConfig
from zk0.config.paths import check_target
from zk0.data.findings import DataReport
from zk0.errors import ConfigError, DatasetError
from zk0.executors import calls
from zk0.executors.choice import check_clients
from zk0.executors.process import ProcessExecutor
from zk0.executors.side_by_side import Watch, examine_all, nobody
from zk0.preflight.between import together
from zk0.preflight.records import Preflight
from zk0.tracking.tracker import check as check_trackers


def check(config: RunConfig, watch: Watch = nobody) -> Preflight:
    """Look at data, policy, executor and environments before anything is written.

    What lies on the hub is fetched for containers. Environments are tried here, whatever the executor, for rollouts
    always run on this machine: see `zk0.executors.choice.make_executor`.

    Args:
        config: the wanted config.
        watch: told what is being done.

    Raises:
        BadInputError: the first thing that would fail.
    """
    check_strategy(config)
    check_trackers(config)
    found = check_clients(config, watch)
    if config.evaluation.environments:
        watch("trying the environments")
        ProcessExecutor(config.executor).call(calls.check_environments, found.config)
    return found


def strictly(check: Callable[[RunConfig], Preflight]) -> Callable[[RunConfig], Preflight]:
    """The same checks, of which a warning is an error; what lies on the hub is fetched for them."""

    def checked(config: RunConfig) -> Preflight:
        if any(dataset.root is None for dataset in config.datasets_here):
            ProcessExecutor(config.executor).call(calls.ready, config, None)
        found = check(config)
        if found.warnings:
            raise DatasetError("\n".join([*found.warnings, f"--strict: {len(found.warnings)} warnings are errors"]))
        return found

    return checked


def check_data(
    config: RunConfig, fix_to: Path | None = None, *, fresh: bool = False, watch: Watch = nobody
) -> DataReport:
    """Every check of every dataset and of all its frames, each in a process of its own; then the policy is tried.

    Args:
        config: the config.
        fix_to: see `preflight.ready`.
        fresh: look again at what was found before.
        watch: told what is being done.

    Raises:
        BadInputError: something cannot be fetched, the policy fails, or a copy cannot be made.
    """
    if config.executor.kind == SUPERLINK:
        raise ConfigError(
            "executor.kind = 'superlink': the clients' recordings are on their nodes, which look at them before a run; "
            "an owner looks by `zk0 node check`"
        )
    if fix_to is not None:
        fix_to = check_target("--fix-to", fix_to)
    watch("fetching what lies on the hub" if fix_to is None else "writing copies")
    config = ProcessExecutor(config.executor).call(calls.ready, config, fix_to)
    found = together(config, examine_all(config, every_frame=True, fresh=fresh, watch=watch))
    if found.of("error"):
        return found
    watch("trying the policy")
    warned = ProcessExecutor(config.executor).call(calls.try_policy, config)
    return found.model_copy(update={"findings": [*found.findings, *warned]})
