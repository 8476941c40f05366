"""Work on nodes that see the run directory, as those of a simulation do: a task goes, and its result lies there.

So a worker that a killed `flwr run` has left is adopted, logs and progress are where they always are, and no tensors
travel.
"""

from flwr.app import RecordDict
from loguru import logger

from zk0.config import RunConfig
from zk0.errors import ClientError, HopelessError, StorageError, Zk0Error
from zk0.executors.choice import own_executor
from zk0.executors.process import LATER_S, ProcessExecutor
from zk0.executors.stopping import go_on
from zk0.flower.nodes import Nodes
from zk0.link.parcel import packed, text_of
from zk0.link.wire import Answer
from zk0.runs.store import RunStore
from zk0.work.log import what
from zk0.work.records import ClientResult, ClientTask
from zk0.work.results import find_finished
from zk0.work.told import tell

ON_NODES = ("statistics", "train", "evaluate")
"""Kinds of work that are a client's; the first tensors and rollouts are done beside the loop."""
ASK_LENGTH = 32


class InPlaceExecutor:
    """Runs a client's tasks on its node, in the run directory.

    Args:
        config: of the run that the tasks belong to.
        nodes: of the federation.
    """

    def __init__(self, config: RunConfig, nodes: Nodes) -> None:
        self._config, self._nodes = config, nodes
        self._home = ProcessExecutor(config.executor)
        self._clients = {client.name for client in config.clients}

    def run(self, task: ClientTask) -> ClientResult:
        """See `Executor.run`."""
        if task.kind not in ON_NODES or task.client not in self._clients:
            return self._home.run(task)
        if (found := find_finished(task)) is not None:
            logger.info("{} of {} in round {} is already done", task.kind, task.client, task.server_round)
            return found
        go_on(task)
        try:
            answer = self._answer(task)
        except ClientError as error:
            raise type(error)(error.cause, f"{what(task)}: {error}") from error
        if answer.state == "unknown":
            raise HopelessError(
                "error",
                f"{what(task)}: its node does not see {task.run_dir}; put outputs_dir where the nodes see it, or set "
                "executor.kind = 'superlink' and give each node a home",
            )
        if answer.state == "failed":
            raise (HopelessError if answer.repeats else ClientError)(answer.cause, answer.message)
        if (found := find_finished(task)) is None:
            raise ClientError("bad_data", f"{what(task)}: what its node left is no result of this work")
        return found

    def _answer(self, task: ClientTask) -> Answer:
        executor = self._config.executor
        limit_s = executor.timeout_s * max(2, executor.places) + LATER_S  # others may be at work there before it
        kind = task.kind if task.kind in ("train", "evaluate") else "query"
        content = packed({"task": task.model_dump_json()})
        said = self._nodes.ask(task.client, content, kind, limit_s=limit_s, away_s=executor.away_s)
        try:
            return Answer.model_validate_json(text_of(said)["answer"])
        except (ValueError, KeyError) as error:
            raise ClientError("bad_data", f"its node's answer is none: {type(error).__name__}") from error


def work_in_place(content: RecordDict) -> RecordDict:
    """The node's side: do the task that a message brings, where it says; whatever comes of it is told."""
    task = ClientTask.model_validate_json(text_of(content)["task"])
    return packed({"answer": _done(task).model_dump_json()})


def _done(task: ClientTask) -> Answer:
    ask = task.key[:ASK_LENGTH]
    try:
        store = RunStore.open(task.run_dir)
    except Zk0Error as error:
        if not isinstance(error, StorageError):
            return Answer(ask=ask, state="unknown")
        return Answer(ask=ask, state="failed", message=str(error))
    if store.info.id != task.run_id:
        return Answer(ask=ask, state="unknown")
    try:
        own_executor(store.config, ProcessExecutor(store.config.executor)).run(task)
    except Zk0Error as error:
        told = tell(error)
        return Answer(ask=ask, state="failed", cause=told.cause, message=str(error), repeats=error.repeats)
    return Answer(ask=ask, state="done")
