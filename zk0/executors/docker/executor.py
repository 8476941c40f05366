"""Each piece of work in a Docker container of its own, which outlives its orchestrator and is adopted by the next."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import Mount
from loguru import logger

from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.executors.docker import engine
from zk0.executors.docker.check import check_container, check_engine
from zk0.executors.docker.death import outcome, timed_out
from zk0.executors.docker.gpu_turns import gpu_turn, is_among, slots
from zk0.executors.docker.log_tail import LogTail
from zk0.executors.docker.mem_limit import mem_limit
from zk0.executors.docker.settings import container_settings, user, wanted_gpus
from zk0.executors.stopping import go_on
from zk0.files import untrusted
from zk0.files.atomic import storage_errors
from zk0.work.executor import STOPPED
from zk0.work.failure import failure_path
from zk0.work.lock import is_held, lock_path, wait_until_free
from zk0.work.log import client_log, what
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
MOST_WORDS_BYTES = 256 * 1024
"""Of a container's own output that are kept."""
OURS_DEEPEST = 3
"""Levels in a writable folder at which the orchestrator, or a worker process before, may have written."""
WITHDRAWN_S = 4.0
"""Longest pause of a container's orchestrator that gave its GPU back to another one's."""


def stop_containers(run_dir: str) -> None:
    """End the containers of a run whose orchestrator was told to end; a killed one's go on, to be adopted.

    From here on none is started, and one that was being started meanwhile is ended by the thread that waits for it.
    """
    STOPPED.set()
    with closing(engine.patiently(engine.connect)) as client:
        for container in engine.patiently(lambda: engine.labelled(client, {"zk0.run_dir": run_dir})):
            engine.remove(container)


class DockerExecutor:
    """Runs tasks in containers that see no network, and of the disk only what the task names."""

    def __init__(self, config: RunConfig) -> None:
        """Prepare; nothing is asked of the engine yet.

        Args:
            config: of the run that the tasks belong to.
        """
        self._config = config
        self._limit_s = config.executor.timeout_s

    def check(self) -> None:
        """See `Checked.check`."""
        check_engine(self._config)
        check_container(self._config)

    def stop(self, run_dir: str) -> None:
        """See `Stoppable.stop`."""
        stop_containers(run_dir)

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`."""
        go_on(task)
        _reopen(task.folder)
        try:
            return self._run(task)
        finally:
            _reopen(task.folder)

    def _run(self, task: ClientTask) -> ClientResult:
        with closing(engine.patiently(engine.connect)) as client:
            container = self._left_over(client, task)
            try:
                found = find_finished(task)
            except ClientError:
                if container is not None:
                    engine.remove(container)
                raise
            if found is not None and container is not None:
                engine.remove(container)  # then it can no longer change what is looked at
                container, found = None, find_finished(task)
            if found is not None:
                logger.info("{} of {} in round {} is already done", task.kind, task.client, task.server_round)
                return found
            if container is not None:
                logger.info("{} of {}: adopted container {}", task.kind, task.client, container.name)
                return self._follow(task, container, LogTail(client_log(task), task.client))
            self._wait_for_a_process(task)
            return self._in_turn(client, task)

    def _in_turn(self, client: docker.DockerClient, task: ClientTask) -> ClientResult:
        """Do the work in a new container, as soon as there is a GPU for it; see `gpu_turns`."""
        while True:
            with gpu_turn(wanted_gpus(self._config), lambda: _busy_while_going_on(client, task)) as gpu:
                tail = LogTail(client_log(task), task.client)
                container = self._start(client, task, gpu)
                if gpu is None or not is_among(gpu, _busy_gpus(client, apart_from=container), slots()):
                    return self._follow(task, container, tail)
                logger.info("{} of {}: GPU {} has got another container: waiting", task.kind, task.client, gpu)
                engine.remove(container)
            time.sleep(random.SystemRandom().uniform(0, WITHDRAWN_S))  # two that gave way hardly meet again

    def _left_over(self, client: docker.DockerClient, task: ClientTask) -> Container | None:
        """The container that does, or did, just this work; every other one of this run and client is stale."""
        ours = {"zk0.run_dir": task.run_dir, "zk0.client": task.client}
        same = None
        for container in engine.patiently(lambda: engine.labelled(client, ours)):
            if container.labels["zk0.key"] == task.key and container.status != "created" and same is None:
                same = container
            else:
                logger.info("removing the stale container {}", container.name)
                engine.remove(container)
        return same

    def _wait_for_a_process(self, task: ClientTask) -> None:
        """A worker process of an earlier orchestrator may be at it, where the executor was changed since."""
        if is_held(task) and not wait_until_free(task, self._limit_s):
            raise ClientError("lost", f"{what(task)}: a worker process holds {lock_path(task)}; end it")

    def _start(self, client: docker.DockerClient, task: ClientTask, gpu: str | None) -> Container:
        go_on(task)
        with storage_errors(task.folder, "tidied"):
            untrusted.remove(failure_path(task))
        limit = engine.patiently(lambda: mem_limit(client, self._config, task.run_dir))
        settings = container_settings(task, self._config, gpu, limit)
        hand_over(settings["mounts"])
        with _start_errors(task, settings["image"]):
            container = client.containers.create(**settings)
            try:
                container.start()
            except engine.ENGINE_ERRORS:
                engine.remove(container)
                raise
        logger.info("{} of {}: container {}", task.kind, task.client, container.name)
        return container

    def _follow(self, task: ClientTask, container: Container, tail: LogTail) -> ClientResult:
        """Wait for the end of a container, telling its log on; take its result or say how it died; remove it."""
        attributes: dict[str, Any] = {}
        try:
            try:
                self._wait(task, container, tail)
            finally:
                _reopen(task.folder)
            keep_words(client_log(task), engine.patiently(lambda: container.logs(tail=50)))
            attributes = container.attrs
        except NotFound:
            logger.warning("container {} was removed by someone", container.name)
        except ClientError:
            if find_finished(task) is None:  # not even a result, of which the engine could not tell
                raise
        tail.forward()
        try:
            return outcome(task, attributes, self._limit_s)
        finally:
            engine.remove(container)

    def _wait(self, task: ClientTask, container: Container, tail: LogTail) -> None:
        """Come back when the container has ended by itself; at its time limit it is ended.

        Raises:
            ClientError: it took too long, or the engine stays away.
            NotFound: someone removed it.
        """
        while True:
            if STOPPED.is_set():
                engine.remove(container)
            go_on(task)
            engine.patiently(container.reload)
            tail.forward()
            state = container.attrs["State"]
            if state["Status"] in ("exited", "dead"):
                return
            if _age_s(state) > self._limit_s:
                engine.remove(container)
                raise timed_out(task, self._limit_s)
            time.sleep(engine.POLL_S)


@contextmanager
def _start_errors(task: ClientTask, image: str) -> Iterator[None]:
    """What the engine says of a container that it does not start, as a ClientError."""
    try:
        yield
    except ImageNotFound as error:
        message = f"executor.docker.image = {image!r}: the Docker engine has no such image"
        raise ClientError("error", f"{what(task)}: {message}") from error
    except APIError as error:
        message = f"its container does not start: {engine.reason(error)}"
        raise ClientError("error", f"{what(task)}: {message}") from error
    except engine.ENGINE_ERRORS as error:
        message = f"lost the Docker engine at its start: {engine.reason(error)}"
        raise ClientError("lost", f"{what(task)}: {message}") from error


def _busy_while_going_on(client: docker.DockerClient, task: ClientTask) -> set[str]:
    """As `_busy_gpus`, for work that waits for its turn: not in a run that was ended meanwhile."""
    go_on(task)
    return _busy_gpus(client)


def _busy_gpus(client: docker.DockerClient, apart_from: Container | None = None) -> set[str]:
    """GPUs, by index or UUID, of the running containers."""
    containers = engine.patiently(lambda: engine.labelled(client, {}))
    others = [container for container in containers if apart_from is None or container.id != apart_from.id]
    return {container.labels["zk0.gpu"] for container in others if container.status == "running"}


def _age_s(state: dict[str, Any]) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(state["StartedAt"])).total_seconds()


def keep_words(log: Path, words: bytes) -> None:
    """Put into a client's log what its container said before the worker took its output over."""
    if not words:
        return
    with storage_errors(log, "written"), os.fdopen(untrusted.open_ours(log, APPEND), "ab") as file:
        file.write(words[-MOST_WORDS_BYTES:])


def hand_over(mounts: list[Mount]) -> None:
    """What a container writes must belong to its user, who is not the caller where that is root."""
    uid, gid = user()
    for folder in (Path(mount["Source"]) for mount in mounts if not mount["ReadOnly"]):
        with storage_errors(folder, "handed over"):
            folder.mkdir(parents=True, exist_ok=True)
            if os.getuid() == 0:
                for path in [folder, *untrusted.below(folder, OURS_DEEPEST)]:
                    os.chown(path, uid, gid, follow_symlinks=False)


def _reopen(folder: Path) -> None:
    """A container that runs as the caller may have closed its folder to both; root needs no such rights."""
    with suppress(OSError):  # not there yet; another's, which what follows says
        folder.chmod(folder.stat().st_mode | 0o700)
