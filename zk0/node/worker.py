"""The node's worker: does what lies on the desk by the installed zk0, one after the other, and keeps what came of it.

It holds a fork server with the heavy imports done, so that a fit starts in a moment. Killed, it leaves the fit at work;
the next worker adopts it, as an orchestrator does.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from loguru import logger

from zk0.config import ExecutorConfig, RunConfig, resolve_path, validate_config
from zk0.data.digest import file_digests
from zk0.errors import ClientError, RefusedError, StorageError, Zk0Error
from zk0.executors import calls
from zk0.executors.choice import check_clients, own_executor, stop_work
from zk0.executors.process import ProcessExecutor
from zk0.files import atomic, untrusted
from zk0.layout import ROUNDS_FOLDER, RUN_FILE, STAND_IN, result_file
from zk0.link.wire import Answer, Request
from zk0.node import ledger
from zk0.node.desk import Desk
from zk0.node.own import own_config
from zk0.node.policy_type import policy_type
from zk0.node.request import Asker, WorkKind, WorkRequest, request_of
from zk0.node.rules import judge, review
from zk0.node.settings import NodeSettings, load
from zk0.node.words import failed
from zk0.preflight.records import Described
from zk0.runs.records import digest_of, told_files
from zk0.runs.versions import versions
from zk0.work.executor import STOPPED
from zk0.work.records import ClientTask
from zk0.work.results import find_finished

LOOK_S = 0.1
END_LOOK_S = 0.3
"""Between two looks at whether work under way is still wanted."""
KEPT_ROUNDS = 2
"""Of a run's work that are kept: the coordinator asks for none that is older than the round before."""


class Worker:
    """Does what is asked for, for one node.

    Args:
        home: of the node.
    """

    def __init__(self, home: Path) -> None:
        self._desk = Desk(home)
        self._configs: dict[str, RunConfig] = {}
        self._messengers: subprocess.Popen[bytes] | None = None

    def work(self) -> None:
        """For ever; who wants its end kills it."""
        ProcessExecutor(ExecutorConfig()).warm_up()
        while True:
            self._keep_messengers()
            self._end_what_is_not_wanted()
            for request in self._desk.waiting():
                logger.info("{} of run {!r}: {}", request.what, request.run, request.key[:12])
                answer = self._answer(request)
                if not self._desk.is_ended(request.ask):
                    self._desk.tell(request, answer)
                break  # the oldest first, as the desk is now
            else:
                time.sleep(LOOK_S)

    def _end_what_is_not_wanted(self) -> None:
        """See that nothing is at work that a person has ended, as a worker that was killed may have left it."""
        for request in self._desk.to_end():
            logger.info("{} of run {!r}: ended by the coordinator", request.what, request.run)
            if request.task is not None:
                self._stop(request, request.task)
            self._desk.has_ended(request)

    def _stop(self, request: Request, task: ClientTask) -> None:
        """End what is at work for a run."""
        run_dir = str(self._desk.run_dir(task))
        try:
            config = self._config(validate_config(request.terms), load(self._desk.home))
            stop_work(run_dir, config)
        except Zk0Error as error:
            logger.warning("run {!r}: its work cannot be ended: {}", request.run, error)
        finally:
            STOPPED.clear()

    @contextmanager
    def _ended_when_not_wanted(self, request: Request, run_dir: str, config: RunConfig) -> Iterator[None]:
        """End the work under way as soon as its request is not wanted any more."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(END_LOOK_S):
                if self._desk.is_ended(request.ask):
                    stop_work(run_dir, config)
                    return

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()
            STOPPED.clear()

    def _keep_messengers(self) -> None:
        """See that messengers can be forked; without that each one does Flower's imports."""
        if self._messengers is None or self._messengers.poll() is not None:
            command = [sys.executable, "-m", "zk0.node.messenger", "serve", str(self._desk.home), str(os.getpid())]
            self._messengers = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # it ends with this process

    def _answer(self, request: Request) -> Answer:
        """What came of a request; whatever it was, the coordinator is told."""
        task = None
        try:
            settings, terms = load(self._desk.home), validate_config(request.terms)
            asked = self._allowed(request, settings, terms)
            config = self._config(terms, settings)
            if request.task is None:
                return Answer(ask=request.ask, state="done", described=self._described(request, config))
            _hold_against(request, settings)
            task = request.task.model_copy(update={"run_dir": str(self._desk.run_dir(request.task))})
            return self._done(request, asked, task, config)
        except Exception as error:  # noqa: BLE001 - a door: what ends the work is told, and the next may be done
            logger.opt(exception=not isinstance(error, Zk0Error)).warning("{} failed: {}", request.what, error)
            return failed(request, error, task)

    def _allowed(self, request: Request, settings: NodeSettings, terms: RunConfig) -> WorkRequest:
        """See that the owner allows it, before anything of it is done; before a run, all that the run would ask for.

        Raises:
            RefusedError: says what is asked, and which rule is against it.
        """
        asker = Asker(
            link=settings.link,
            run=request.run,
            client=terms.clients[0].name,
            version=request.versions.get("zk0", ""),
            policy_type=policy_type(terms.policy),
        )
        if not request.run:  # a config is tried for no run; the rule on names is applied to its work
            settings = settings.model_copy(update={"rules": settings.rules.model_copy(update={"runs": None})})
        task = request.task
        kind = cast(WorkKind, "describe" if task is None else task.kind)
        number, steps = (0, None) if task is None else (task.server_round, task.steps)
        asked = request_of(terms, kind, asker, server_round=number, steps=steps)
        self._desk.judged(request, asked)
        if task is None and (refusals := review(terms, asker, settings, self._desk.home)):
            raise RefusedError("refused", "; ".join(refusals))  # all of them, not the first
        judge(asked, settings, self._desk.home)
        return asked

    def _config(self, terms: RunConfig, settings: NodeSettings) -> RunConfig:
        """The terms made the node's own; once for each of both, for it takes a process with torch."""
        both = hashlib.sha256(f"{terms.model_dump_json()}\0{settings.model_dump_json()}".encode()).hexdigest()
        if both not in self._configs:
            self._configs[both] = own_config(terms, settings, self._desk.folder / "runs")
        return self._configs[both]

    def _described(self, request: Request, config: RunConfig) -> dict[str, Any]:
        """What the node says of itself: for a run that goes on with the same recordings, what it said before."""
        path = self._desk.folder / STAND_IN
        of = {"key": request.key, "config": config.model_dump(mode="json"), "versions": versions()}
        of["recordings"] = recordings_digest(str(config.clients[0].root))
        with suppress(StorageError):
            known = atomic.read_sealed(path)
            if known["of"] == of and not config.memory.probe:  # free memory is another at every time
                return dict(known["described"])
        said = describe(config).model_dump(mode="json")
        atomic.write_sealed(path, {"of": of, "described": said})
        return said

    def _done(self, request: Request, asked: WorkRequest, task: ClientTask, config: RunConfig) -> Answer:
        run_dir = Path(task.run_dir)
        record = {"config": config.model_dump(mode="json"), "id": task.run_id, "name": request.run}
        atomic.write_sealed(run_dir / RUN_FILE, record)
        self._forget(run_dir, task.server_round)
        if task.kind == "train" and find_finished(task) is None:
            ledger.began(self._desk.home, asked)
        with self._ended_when_not_wanted(request, task.run_dir, config):
            result = own_executor(config, ProcessExecutor(config.executor)).run(task)
        text = untrusted.read(task.folder / result_file(task.kind)).decode()
        files = [ref for ref in (result.tensors, result.optimizer) if ref is not None]
        return Answer(ask=request.ask, state="done", result=text, files=files)

    @staticmethod
    def _forget(run_dir: Path, server_round: int) -> None:
        """Remove what nobody asks for any more."""
        rounds = run_dir / ROUNDS_FOLDER
        for folder in atomic.listed(rounds):
            if folder.name.isdigit() and 0 < int(folder.name) < server_round - KEPT_ROUNDS:
                untrusted.remove_tree(folder)


def _hold_against(request: Request, settings: NodeSettings) -> None:
    """A run goes on with the recordings that it was begun with.

    Raises:
        ClientError: these are others.
    """
    if request.recordings not in (None, digest_of(told_files(recordings_digest(settings.root)))):
        raise ClientError(
            "bad_data",
            f"client {request.client!r}: its recordings are not those that run {request.run!r} was begun with; put "
            "them back as they were, or start a new run by --name",
        )


def describe(config: RunConfig) -> Described:
    """What the coordinator must know of the recordings, after all that a run is checked by at home.

    Args:
        config: the node's own.

    Raises:
        BadInputError: the first thing that would fail.
    """
    found = check_clients(config)
    return ProcessExecutor(config.executor).call(calls.describe, found)


def recordings_digest(root: str) -> str:
    """What the recordings in a folder are, by one digest."""
    return digest_of(file_digests(resolve_path(root)))


def main(home: Path) -> int:
    """Be a node's worker; gives the exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # its fits live on
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with Desk(home).manned() as mine:
        if not mine:
            sys.stderr.write(f"{home}: another worker is at it\n")
            return 3
        Worker(home).work()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
