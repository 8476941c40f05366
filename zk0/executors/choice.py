"""Where a run's clients are at work: the only module that looks at `executor.kind`."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from zk0.config import SUPERLINK, RunConfig
from zk0.errors import ConfigError
from zk0.executors import calls
from zk0.executors.plugged import plugged
from zk0.executors.process import ProcessExecutor
from zk0.executors.side_by_side import Watch, examine_all, nobody
from zk0.preflight.records import Preflight
from zk0.work.executor import Checked, Executor, Placed, Stoppable
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished

type Factory = Callable[[RunConfig], Executor]


def _processes(config: RunConfig) -> ProcessExecutor:
    return ProcessExecutor(config.executor)


def _containers(config: RunConfig) -> Executor:
    from zk0.executors.docker.executor import DockerExecutor  # the SDK only where it is used

    return DockerExecutor(config)


def _nodes(config: RunConfig) -> Executor:
    from zk0.executors.superlink import SuperlinkExecutor

    return SuperlinkExecutor(config)


PROCESS, DOCKER = "process", "docker"
OURS: dict[str, Factory] = {PROCESS: _processes, DOCKER: _containers, SUPERLINK: _nodes}
"""executor.kind -> what makes the executor; every other one is an installed package's."""


def executor_of(config: RunConfig) -> Executor:
    """The executor that `executor.kind` names.

    Args:
        config: of the run that the tasks belong to.

    Raises:
        ConfigError: there is none of that name, or it cannot be made.
    """
    return OURS.get(config.executor.kind, plugged)(config)


def make_executor(work: ClientTask, config: RunConfig) -> Executor:
    """The executor that `executor.kind` names, for a client's work; a rollout is always a process of this machine.

    A container is there to keep a client's recordings apart from everything else, and a rollout reads none: it takes
    the global tensors and a simulator, which is no client's. So the image needs no simulator, and a simulator no
    container with a way to draw. What it does not have is the container's bounds on memory and network.
    """
    return _processes(config) if work.kind == "rollout" else executor_of(config)


def check_clients(config: RunConfig, watch: Watch = nobody) -> Preflight:
    """Look at the executor, and at data and policy in processes with torch, before anything is written.

    What lies on the hub is fetched for containers, which have no network.

    Args:
        config: the wanted config.
        watch: told what is being done.

    Raises:
        BadInputError: the first thing that would fail.
    """
    kind, options = config.executor.kind, config.executor.options
    if kind in OURS and options:
        raise ConfigError(f"executor.options = {options!r}: executor.kind = {kind!r} reads none; leave them out")
    if kind == DOCKER:
        return _check_containers(config, watch)
    if kind == SUPERLINK:
        from zk0.executors.link_check import check_over_link

        return check_over_link(config, watch)
    executor = executor_of(config)
    if isinstance(executor, Checked):
        executor.check()
    found = _preflight(config, watch)
    if config.executor.max_parallel is not None or not isinstance(executor, Placed):
        return found
    return found.model_copy(update={"config": _with_places(found.config, executor.places)})


def _preflight(config: RunConfig, watch: Watch, *, in_container: bool = False) -> Preflight:
    processes = ProcessExecutor(config.executor)
    config = processes.call(calls.settle, config)
    examined = examine_all(config, every_frame=False, watch=watch)
    watch("trying the policy")
    return processes.call(calls.preflight, config, in_container, examined)


def _check_containers(config: RunConfig, watch: Watch) -> Preflight:
    from zk0.executors.docker import check

    check.check_engine(config)
    found = _preflight(config, watch, in_container=True)
    ProcessExecutor(config.executor).call(calls.fetch, found.config)
    warnings = [*found.warnings, *check.mount_warnings(config)]
    found = found.model_copy(update={"config": check.settle_places(found.config), "warnings": warnings})
    check.check_container(found.config)
    return found


def _with_places(config: RunConfig, places: int) -> RunConfig:
    return config.model_copy(update={"executor": config.executor.model_copy(update={"max_parallel": places})})


def own_executor(config: RunConfig, processes: ProcessExecutor) -> Executor:
    """The executor that `executor.kind` names, for work without the checks before a run.

    Args:
        config: of a run, as it was settled.
        processes: for `process`.
    """
    return processes if config.executor.kind == PROCESS else CheckedExecutor(config)


class CheckedExecutor:
    """Checks an executor before the first work that it is needed for; what is done already needs none."""

    def __init__(self, config: RunConfig) -> None:
        """Prepare; nothing is asked of the executor yet.

        Args:
            config: of a run, as it was settled.
        """
        self._config = config

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`; at Ctrl-C, of which a container hears nothing, the work is ended too.

        Raises:
            ConfigError: the executor cannot work.
        """
        if (found := find_finished(task)) is not None:
            return found
        try:
            return self._executor.run(task)
        except KeyboardInterrupt:
            stop_work(task.run_dir, self._config)
            raise

    @cached_property
    def _executor(self) -> Executor:
        executor = executor_of(self._config)
        if isinstance(executor, Checked):
            executor.check()
        return executor


def export_policy(work: ClientTask, config: RunConfig, folder: Path, *, merge: bool, own: bool) -> None:
    """Write a round's policy, in a worker process: the orchestrator never loads a model."""
    ProcessExecutor(config.executor).call(calls.save_policy, work.model_dump_json(), str(folder), merge, own)


def stop_work(run_dir: str, config: RunConfig) -> None:
    """End what is at work for a run that a person ends: processes, of which every run may have some, and the rest."""
    _processes(config).stop(run_dir)
    if config.executor.kind != PROCESS and isinstance(executor := executor_of(config), Stoppable):
        executor.stop(run_dir)


def warm_up(config: RunConfig) -> None:
    """Begin what takes long before the first piece of work; for other executors 800 MB for little are spared."""
    if config.executor.kind == PROCESS:
        ProcessExecutor(config.executor).warm_up()
