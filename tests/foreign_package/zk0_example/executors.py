"""executor.kind = "subprocesses": an entry point of the group `zk0.executors`, see this package's pyproject.toml."""

import subprocess
import sys
import threading

from zk0.config import RunConfig
from zk0.errors import ClientError, ConfigError
from zk0.work.failure import read_failure
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished


class Subprocesses:
    """Each piece of work in a new interpreter; elsewhere it could be a job of a cluster that shares the disk.

    zk0 asks for no work whose result is there already, or that a worker is still at, and looks at the result itself.
    """

    def __init__(self, config: RunConfig) -> None:
        self._options = config.executor.options
        self._timeout_s = config.executor.timeout_s
        self._at_work: dict[subprocess.Popen[bytes], str] = {}
        self._lock = threading.Lock()

    @property
    def places(self) -> int:
        """How many clients may be at work at the same time, where executor.max_parallel does not say."""
        return int(self._options.get("places", 1))

    def check(self) -> None:
        """Before a run: refuse what this executor does not know."""
        if unknown := sorted(self._options.keys() - {"places"}):
            raise ConfigError(f"executor.options.{unknown[0]}: unknown; subprocesses knows places; remove it")

    def run(self, task: ClientTask) -> ClientResult:
        """Have the work done; comes back when it is, or with what kind of death it died."""
        process = subprocess.Popen([sys.executable, "-m", "zk0_example.worker", task.model_dump_json()])
        with self._lock:
            self._at_work[process] = task.run_dir
        try:
            code = process.wait(self._timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise ClientError("timeout", f"{task.kind} of {task.client!r} took {self._timeout_s:g} s") from error
        finally:
            with self._lock:
                del self._at_work[process]
        if (found := find_finished(task)) is not None:
            return found
        raise read_failure(task) or ClientError("lost", f"{task.kind} of {task.client!r}: exit code {code}")

    def stop(self, run_dir: str) -> None:
        """End what is at work for a run that a person ends."""
        with self._lock:
            ours = [process for process, folder in self._at_work.items() if folder == run_dir]
        for process in ours:
            process.kill()
