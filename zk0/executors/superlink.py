"""A client's work on its owner's node, reached over Flower's SuperLink by the courier; all other work is at home."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from loguru import logger

from zk0.config import RunConfig
from zk0.errors import BadInputError, ClientError, ConfigError, FailureCause, HopelessError
from zk0.executors.link_check import compare, describe_request, known_of, read_described
from zk0.executors.over_link import LOOK_S, Line, line, new_ask
from zk0.executors.process import LATER_S, ProcessExecutor
from zk0.executors.stopping import go_on
from zk0.files import atomic
from zk0.layout import (
    BASE_FOLDER,
    COMPARE_FOLDER,
    COURIER_FOLDER,
    PROGRESS_FILE,
    RUN_FILE,
    result_file,
    tensors_file,
    tensors_stem,
)
from zk0.link.folder import open_link
from zk0.link.mailbox import Mailbox
from zk0.link.wire import MEMORY, STEPS, Answer, Request, terms
from zk0.memory.samples import note_sample
from zk0.runs import counted, described
from zk0.runs.records import digest_of, told_files
from zk0.runs.versions import versions
from zk0.work.executor import STOPPED
from zk0.work.log import what
from zk0.work.records import ArtifactRef, ClientResult, ClientTask
from zk0.work.results import find_finished

ON_NODES = ("statistics", "train", "evaluate")
"""Kinds of work that read a client's recordings."""
ENDING_S = 20.0
"""Longest time to wait until nodes have heard of the end: a person waits, too."""
ENDING_FRESH_S = 5.0
"""A courier that has said nothing for so long then is taken for dead."""


class SuperlinkExecutor:
    """Runs a client's tasks on its node."""

    def __init__(self, config: RunConfig) -> None:
        """Prepare; nothing is asked of the link yet.

        Args:
            config: of the run that the tasks belong to.
        """
        self._config = config
        self._home = ProcessExecutor(config.executor)

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`."""
        if not self._is_a_nodes(task):
            return self._home.run(task)
        if (found := find_finished(task)) is not None:
            logger.info("{} of {} in round {} is already done", task.kind, task.client, task.server_round)
            return found
        go_on(task)
        way = line(open_link(self._config.executor.link), Mailbox(Path(task.run_dir) / COURIER_FOLDER))
        if not described.is_known(Path(task.run_dir), task.client):
            self._take_in(way, task)
        request = self._asked(way.box, task)
        try:
            answer = self._answer(way, request, task)
            return _taken(way.box, request, answer, task)
        finally:
            way.box.withdraw(request)

    def stop(self, run_dir: str) -> None:
        """See `Stoppable.stop`; a node ends what it has begun, and keeps it.

        The courier tells the nodes, and lives on until it has: this process need not.
        """
        STOPPED.set()
        self._home.stop(run_dir)
        box = Mailbox(Path(run_dir) / COURIER_FOLDER)
        if not box.folder.is_dir():
            return
        if box.withdraw_all() and box.status() is not None:  # without any word of a courier no node was asked
            with suppress(ConfigError):  # a link that is gone
                self._tell_nodes(line(open_link(self._config.executor.link), box))
        box.stop()

    @staticmethod
    def _tell_nodes(way: Line) -> None:
        """Wait a while until the nodes know that their work is not wanted any more."""
        logger.info("telling the nodes to end their work")
        until = time.monotonic() + ENDING_S
        while any(way.box.endings()):
            if time.monotonic() > until:
                logger.warning("some nodes do not know yet that their work is over; the courier goes on telling them")
                return
            way.keep(fresh_s=ENDING_FRESH_S, patience_s=ENDING_S)
            time.sleep(LOOK_S)

    def _is_a_nodes(self, task: ClientTask) -> bool:
        return task.kind in ON_NODES and any(client.name == task.client for client in self._config.clients)

    def _asked(self, box: Mailbox, task: ClientTask) -> Request:
        """The request for a piece of work: one that an orchestrator before left, or a new one."""
        wanted = task.model_copy(update={"run_dir": ""})
        known = box.asked(task.client, task.key)
        if known is not None and known.task == wanted and known.until > time.time():
            logger.info("{} of {} in round {}: adopted on its node", task.kind, task.client, task.server_round)
            return known
        run_dir = Path(task.run_dir)
        record = atomic.read_sealed(run_dir / RUN_FILE)
        request = Request(
            ask=new_ask(),
            what="work",
            client=task.client,
            key=task.key,
            run=_called(run_dir),
            task=wanted,
            terms=terms(self._config, task.client).model_dump(mode="json"),
            recordings=record.get("data", {}).get(task.client) or _recordings(run_dir, task.client),
            files=[*(ref for ref in (task.incoming, task.stats, task.optimizer) if ref), *_base(run_dir)],
            versions=versions(),
            until=time.time() + self._limit_s,
        )
        box.ask(request)
        return request

    def _take_in(self, way: Line, task: ClientTask) -> None:
        """Ask a node that was away when the run began what its recordings are like, before its first work.

        Raises:
            HopelessError: it is away; or its recordings do not fit those of the others.
            ClientError: it could not look at them.
        """
        run_dir, config = Path(task.run_dir), self._config
        request = describe_request(config, task.client, _called(run_dir))
        way.box.ask(request)
        try:
            answer = way.wait(request, limit_s=self._limit_s, away_s=config.executor.away_s)
            said = {**known_of(run_dir, config), task.client: read_described(task.client, answer)}
            compare(config, said)
        except BadInputError as error:
            cause: FailureCause = "refused" if isinstance(error, ConfigError) else "bad_data"
            raise HopelessError(cause, str(error)) from error
        except ClientError as error:
            raise type(error)(error.cause, f"{what(task)}: {error}") from error
        finally:
            way.box.withdraw(request)
        counted.add(run_dir, task.client, said[task.client].training_frames)
        described.keep(run_dir, {task.client: said[task.client].model_dump(mode="json")})
        logger.info("client {!r} joins the run", task.client)

    @property
    def _limit_s(self) -> float:
        executor = self._config.executor
        return executor.timeout_s + executor.away_s + LATER_S

    def _answer(self, way: Line, request: Request, task: ClientTask) -> Answer:
        """What the node says.

        Raises:
            ClientError: as `Line.wait`, or the work failed there.
        """

        def show(progress: dict[str, Any]) -> None:
            record = {name: progress[name] for name in STEPS if name in progress}
            if record:
                shown = {**record, "kind": task.kind, "pid": 0, "updated_at": time.time()}
                atomic.write_bytes(task.folder / PROGRESS_FILE, json.dumps(shown).encode())
            if sample := {name: progress[name] for name in MEMORY if name in progress}:
                note_sample(task.folder, {**sample, "pid": 0, "phase": task.kind})

        try:
            executor = self._config.executor
            answer = way.wait(request, limit_s=self._limit_s, away_s=executor.away_s, on_progress=show)
        except ClientError as error:
            raise type(error)(error.cause, f"{what(task)}: {error}") from error
        if answer.state != "failed":
            return answer
        kind = HopelessError if answer.repeats else ClientError
        raise kind(answer.cause, f"{what(task)}, on its node: {_words(answer.message, task)}")


def _called(run_dir: Path) -> str:
    """The run's name, by which its owners' rules know it: of a comparison's arm, with that of its run before it."""
    if run_dir.parent.name == COMPARE_FOLDER:
        return f"{run_dir.parent.parent.name}/{COMPARE_FOLDER}/{run_dir.name}"
    return run_dir.name


def _recordings(run_dir: Path, client: str) -> str | None:
    """The digest of what a client joined with, as run.json has those of the others."""
    record = described.read(run_dir, [client]).get(client)
    return None if record is None else digest_of(told_files(str(record["recordings"])))


def _words(message: str, task: ClientTask) -> str:
    return message.removeprefix(f"{what(task)}: ")


def _base(run_dir: Path) -> list[ArtifactRef]:
    """The base that the run had to make: whoever works for it needs it."""
    folder = run_dir / BASE_FOLDER
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []
    digests = [atomic.file_digest(path) for path in paths]
    return [
        ArtifactRef(path=path.relative_to(run_dir).as_posix(), sha256=digest.sha256, size=digest.size)
        for path, digest in zip(paths, digests, strict=True)
    ]


def _taken(box: Mailbox, request: Request, answer: Answer, task: ClientTask) -> ClientResult:
    """Put what a node sent where a worker would have left it, and let it in by the same door.

    Raises:
        ClientError: bad_data: it is no result of this work.
    """
    stems = (tensors_stem(task.kind), "optimizer")
    own = {(path := task.folder / tensors_file(stem)).relative_to(task.run_dir).as_posix(): path for stem in stems}
    for ref, source in zip(answer.files, box.files(request), strict=False):
        if ref.path in own:
            atomic.copy_file(source, own[ref.path], ref.sha256)
    atomic.write_bytes(task.folder / result_file(task.kind), answer.result.encode())
    if (found := find_finished(task)) is None:
        raise ClientError("bad_data", f"{what(task)}: what its node sent is no result of this work")
    return found
