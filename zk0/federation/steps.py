"""The steps of a round as plain calls; whoever does them otherwise, as Prefect tasks, takes their place."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import ClassVar, Self

from loguru import logger

from zk0.aggregation.server_round import RoundPlan
from zk0.config import RunConfig
from zk0.errors import ClientError, FailureCause, QuarantineError, Zk0Error
from zk0.executors.choice import make_executor, stop_work
from zk0.federation import attendance, commit, server
from zk0.federation.export import export
from zk0.federation.guard import run_guarded
from zk0.federation.outcomes import Outcomes, sorted_out
from zk0.federation.server import Aggregated, AggregatedStatistics
from zk0.layout import FINAL
from zk0.memory.sampler import phase
from zk0.report.beside import Beside
from zk0.report.pictures import draw_all
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.tracking.follow import Follower
from zk0.work import attempts
from zk0.work.executor import STOPPED, Executor
from zk0.work.records import ClientResult, ClientTask

SHOWN_WITHIN_S = 30.0
"""A run that is over waits so long for its last charts."""

type Round[S] = Callable[[S, int, RoundState | None], RoundState]
"""Makes a round by given steps: its number, and the round before it; None for round 0."""


class Steps:
    """The steps of one run's rounds, as plain calls; clients are at work side by side, in threads that wait for them.

    Args:
        store: the run; whoever makes rounds holds its lock.
        executor: where clients' work is done; as `executor.kind` says when None.
    """

    endings: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt,)
    """What says that a person, or the system, ends this orchestrator."""

    def __init__(self, store: RunStore, executor: Executor | None = None) -> None:
        self.store = store
        self._elsewhere = executor
        self._beside = Beside(self.draw)
        self._tracked = Beside(Follower(store.folder, store.config.tracking.kinds).follow)
        self._showing = False

    @property
    def config(self) -> RunConfig:
        """The run's config."""
        return self.store.config

    def resume_point(self) -> RoundState | None:
        """The newest round that is whole; None before round 0."""
        return self.store.resume_point()

    def one_round(self, make: "Round[Self]", server_round: int, before: RoundState | None) -> RoundState:
        """Make one round, and have it shown."""
        made = make(self, server_round, before)
        self.show(server_round)
        return made

    def sample(self, server_round: int, before: RoundState) -> RoundPlan:
        """See `server.sample`."""
        return server.sample(self.store, server_round, before)

    def each(
        self, step: str, work: Sequence[ClientTask], *, all_needed: bool = False, but: FailureCause | None = None
    ) -> Outcomes:
        """Have one step done by every client that it is for.

        Args:
            step: `prepare`, `fit`, `evaluate` or `rollout`.
            work: a piece for each.
            all_needed: nothing goes without any of them.
            but: a cause that costs a client its own part all the same.

        Raises:
            ClientError: one failed and `all_needed`.
            StorageError: the run directory cannot be written or read.
        """
        try:
            with phase(step):
                ends = self.do(step, work)
        except self.endings:
            try:
                stop_work(str(self.store.folder), self.config)
            except Zk0Error as error:  # an engine that does not answer: the run is ended all the same
                logger.warning("what is at work could not be ended, and may go on: {}", error)
            raise
        return sorted_out(work, ends, all_needed=all_needed, but=but)

    def do(self, step: str, work: Sequence[ClientTask]) -> list[object]:  # noqa: ARG002 - for those who name it
        """What came of each piece of work: its result, or the error that it ended with."""
        pool = ThreadPoolExecutor(max(1, self.config.executor.places), thread_name_prefix="zk0-work")
        try:
            # In our context, which tells whose log it is.
            futures = [pool.submit(copy_context().run, retried, item, self.config, self._elsewhere) for item in work]
            return [future.exception() or future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # who ends the run ends the work that is waited for

    def aggregate(self, server_round: int, before: RoundState, fits: Outcomes) -> Aggregated:
        """See `server.aggregate`."""
        return server.aggregate(self.store, server_round, before, fits)

    def aggregate_statistics(self, statistics: Outcomes) -> AggregatedStatistics:
        """See `server.aggregate_statistics`."""
        return server.aggregate_statistics(self.store, statistics)

    def evaluate(self, evaluations: Sequence[ClientTask], rollouts: Sequence[ClientTask]) -> Outcomes:
        """What the round's policy is worth: on held-out episodes, then in simulation."""
        return self.each("evaluate", evaluations) + self.each("rollout", rollouts)

    def commit(
        self, before: RoundState | None, after: RoundState, aggregated: Aggregated, did: Outcomes, duration_s: float
    ) -> RoundState:
        """See `commit.commit`."""
        return commit.commit(self.store, before, after, aggregated, did, duration_s)

    def show(self, server_round: int) -> None:
        """Have a committed round shown beside the next ones, and given to trackers; comes back at once."""
        self._beside.show(server_round)
        if self.config.tracking.kinds:
            self._tracked.show(server_round)
        self._showing = True

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Wait at the end, within bounds, for what shows the rounds; not where a person ends the run."""
        try:
            yield
        except Zk0Error:
            self._wait()
            raise
        if not self._showing and (rounds := self.store.committed_rounds()):
            self.show(rounds[-1])  # nothing was left to do, and what shows it may have been cut short
        drawn, tracked = self._wait()
        if not drawn:
            logger.warning("the run goes on without its last charts: they take more than {:.0f} s", SHOWN_WITHIN_S)
        if not tracked:
            logger.warning(
                "the run goes on before its trackers have its last rounds: they take more than {:.0f} s", SHOWN_WITHIN_S
            )

    def _wait(self) -> tuple[bool, bool]:
        """Whether the charts are drawn, and the trackers up to date, when both are or patience ends."""
        until = time.monotonic() + SHOWN_WITHIN_S
        drawn = self._beside.wait(SHOWN_WITHIN_S)
        return drawn, self._tracked.wait(max(0.0, until - time.monotonic()))

    def draw(self, server_round: int) -> None:  # noqa: ARG002 - for those who show more than the charts
        """Draw the charts of a committed round; done beside the training."""
        draw_all(self.store.folder, self.config, self.store.read_metrics())

    def export_final(self) -> Path:
        """Write `final/`, a LeRobot `pretrained_model` folder of the newest round."""
        return export(self.store, self.store.committed_rounds()[-1], self.store.folder / FINAL, merge=False)

    def finish(self) -> Path:
        """`export_final`, and the judgement whether the run is a success.

        Raises:
            AbsentClientsError: a client gave no update in any round, and may not.
        """
        final = self.export_final()
        attendance.check(self.store)
        return final


def run_work(work: ClientTask, config: RunConfig, executor: Executor | None = None) -> ClientResult:
    """Do one piece of work on the run's executor, or on a given one, its log lines bound to client and round.

    Raises:
        ClientError: it ended without a result; noted among the client's attempts.
    """
    with logger.contextualize(client=work.client, server_round=work.server_round):
        try:
            return run_guarded((executor or make_executor(work, config)).run, work, config)
        except QuarantineError as error:
            logger.warning("{} refused: {}", work.kind, error)
            raise
        except ClientError as error:
            if STOPPED.is_set():
                raise  # no attempt of the client's
            logger.warning("{} failed ({}): {}", work.kind, error.cause, error)
            judged = attempts.note_failure(work, error)
            if judged is error:
                raise
            raise judged from error


def retried(work: ClientTask, config: RunConfig, executor: Executor | None = None) -> ClientResult:
    """`run_work`, again after a failure that may pass: `executor.max_retries` times, each after a pause."""
    for _ in range(config.executor.max_retries):
        try:
            return run_work(work, config, executor)
        except ClientError as error:
            if not goes_on(error, config):
                raise
    return run_work(work, config, executor)


def goes_on(error: object, config: RunConfig) -> bool:
    """Whether another attempt can end otherwise; comes back when it is due.

    Only a client's own death is retried, not for bad data, and not where a person ends the run, in the pause either.
    """
    return isinstance(error, ClientError) and error.retriable and not STOPPED.wait(config.executor.retry_delay_s)
