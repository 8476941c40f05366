"""Executors that are not of zk0: entry points of the group `zk0.executors`, each a factory called with the RunConfig.

What such a one says is not enough: the work is done when its result lies whole in the run directory.
"""

import threading
from importlib.metadata import EntryPoint, entry_points

from loguru import logger

from zk0.config import RunConfig
from zk0.errors import ClientError, ConfigError, HopelessError, Zk0Error, first_line
from zk0.work.executor import Checked, Executor, Placed, Stoppable
from zk0.work.lock import is_held, wait_until_free
from zk0.work.log import what
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished
from zk0.work.told import tell

GROUP = "zk0.executors"
_made: dict[str, "Plugged"] = {}
_making = threading.Lock()


def names() -> list[str]:
    """Those that installed packages give."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def plugged(config: RunConfig) -> "Plugged":
    """The executor that `executor.kind` names, made once for each config in this process.

    Raises:
        ConfigError: there is none, or it cannot be made.
    """
    key = config.model_dump_json()
    with _making:
        if key not in _made:
            _made[key] = Plugged(_make(config), config)
        return _made[key]


class Plugged:
    """A foreign executor, held to the contract."""

    def __init__(self, inner: Executor, config: RunConfig) -> None:
        """Wrap it.

        Args:
            inner: the foreign one.
            config: that it was made with.
        """
        self._inner = inner
        self._config = config

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`; what is done is not asked for, and a worker that is left over is waited for."""
        if (found := self._found(task)) is not None:
            return found
        try:
            self._inner.run(task)
        except Zk0Error:
            if (found := self._found(task)) is None:
                raise
            return found
        except Exception as error:  # whatever foreign code raises
            logger.opt(exception=True).warning("executor {!r} failed", self._config.executor.kind)
            told = tell(error)
            kind = ClientError if told.passes else HopelessError
            raise kind(told.cause, f"{self._of(task)} failed: {told.words}") from error
        if (found := self._found(task)) is None:
            raise ClientError("lost", f"{self._of(task)} says that it is done; there is no result in {task.folder}")
        return found

    def check(self) -> None:
        """See `Checked.check`."""
        if isinstance(self._inner, Checked):
            self._inner.check()

    def stop(self, run_dir: str) -> None:
        """See `Stoppable.stop`."""
        if isinstance(self._inner, Stoppable):
            self._inner.stop(run_dir)

    @property
    def places(self) -> int:
        """See `Placed.places`."""
        return max(1, self._inner.places) if isinstance(self._inner, Placed) else 1

    def _found(self, task: ClientTask) -> ClientResult | None:
        """Its result; where a worker is at it, as an orchestrator that was killed may have left one, after its end."""
        if (found := find_finished(task)) is not None:
            return found
        if is_held(task) and wait_until_free(task, self._config.executor.timeout_s):
            return find_finished(task)
        return None

    def _of(self, task: ClientTask) -> str:
        return f"{what(task)}: executor.kind = {self._config.executor.kind!r}"


def _make(config: RunConfig) -> Executor:
    kind = config.executor.kind
    points = {point.value: point for point in entry_points(group=GROUP, name=kind)}
    if not points:
        there = ", ".join(repr(name) for name in sorted({"process", "docker", "superlink", *names()}))
        raise ConfigError(
            f"executor.kind = {kind!r}: no such executor; there are {there}; correct it, or install the package that "
            f"gives it, as an entry point of the group {GROUP}"
        )
    if len(points) > 1:
        raise ConfigError(
            f"executor.kind = {kind!r}: {' and '.join(sorted(points))} are both of that name; uninstall one's package"
        )
    (point,) = points.values()
    try:
        made = _loaded(point, config)
    except Zk0Error:
        raise
    except Exception as error:  # whatever foreign code raises
        raise ConfigError(
            f"executor.kind = {kind!r}: {point.value} cannot be made ({type(error).__name__}: {first_line(error)}); "
            "correct executor.options, or its package"
        ) from error
    if not callable(getattr(made, "run", None)):
        raise ConfigError(f"executor.kind = {kind!r}: {point.value} gives no executor, which has run(task); correct it")
    return made


def _loaded(point: EntryPoint, config: RunConfig) -> Executor:
    made: Executor = point.load()(config)
    return made
