"""The executor of a run's clients for work outside its flow: containers are checked before the first that is needed."""

from functools import cached_property

from zk0.config import RunConfig
from zk0.executors import Executor
from zk0.executors.process import ProcessExecutor
from zk0.records import ClientResult, ClientTask
from zk0.results import find_finished


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
