"""The executor of a run's clients for work outside its flow: containers are checked before the first that is needed."""

from functools import cached_property
from pathlib import Path

from zk0.config import RunConfig
from zk0.executors.calls import save_policy
from zk0.executors.process import ProcessExecutor
from zk0.work.executor import Executor
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished


def own_executor(config: RunConfig, processes: ProcessExecutor) -> Executor:
    """Where `executor.kind` wants the work of one client.

    Args:
        config: of a run, as it was settled.
        processes: for `process`.
    """
    return CheckedContainers(config) if config.executor.kind == "docker" else processes


class CheckedContainers:
    """Does work in containers; what is done already needs no engine."""

    def __init__(self, config: RunConfig) -> None:
        """Prepare; nothing is asked of the engine yet.

        Args:
            config: of a run, as it was settled.
        """
        self._config = config

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`; at Ctrl-C, of which a container hears nothing, the work is ended too.

        Raises:
            ConfigError: no container can be made.
        """
        if (found := find_finished(task)) is not None:
            return found
        try:
            return self._executor.run(task)
        except KeyboardInterrupt:
            from zk0.executors.docker.executor import stop_containers

            stop_containers(task.run_dir)
            raise

    @cached_property
    def _executor(self) -> Executor:
        from zk0.executors.docker import check
        from zk0.executors.docker.executor import DockerExecutor

        check.check_engine(self._config)
        check.check_container(self._config)
        return DockerExecutor(self._config)


def make_executor(work: ClientTask, config: RunConfig) -> Executor:
    """The executor that `executor.kind` names, for a client's work; a rollout is always a process of this machine.

    A container is there to keep a client's recordings apart from everything else, and a rollout reads none: it takes
    the global tensors and a simulator, which is no client's. So the image needs no simulator, and a simulator no
    container with a way to draw. What it does not have is the container's bounds on memory and network.
    """
    if config.executor.kind == "docker" and work.kind != "rollout":
        from zk0.executors.docker.executor import DockerExecutor  # the SDK only where it is used

        return DockerExecutor(config)
    return ProcessExecutor(config.executor)


def export_policy(work: ClientTask, config: RunConfig, folder: Path, *, merge: bool, own: bool) -> None:
    """Write a round's policy, in a worker process: the orchestrator never loads a model."""
    ProcessExecutor(config.executor).call(save_policy, work.model_dump_json(), str(folder), merge, own)


def stop_work(run_dir: str, config: RunConfig) -> None:
    """End what is at work for a run whose orchestrator was told to end: containers get no signal from a terminal."""
    if config.executor.kind == "docker":
        from zk0.executors.docker.executor import stop_containers

        stop_containers(run_dir)


def warm_up(config: RunConfig) -> None:
    """Begin what takes long before the first piece of work; in containers, 800 MB for little are spared."""
    if config.executor.kind == "process":
        ProcessExecutor(config.executor).warm_up()
