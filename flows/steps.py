"""The steps of a round done by Prefect: a subflow per round, a task per client's piece of work.

What the server does itself is a plain call in the round's subflow: the timeline has a bar for every task run, and there
is no way to leave one out.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

from loguru import logger
from prefect import flow, get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ExternalSignal
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import ROUND
from flows.patience import patiently
from flows.will import obey
from tasks.artifacts import Pages
from tasks.client import TASKS
from tasks.step import patient
from zk0.federation.round import SERVER, make_round
from zk0.federation.steps import Round, Steps
from zk0.report.markdown import round_message
from zk0.report.pictures import draw_all
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientTask


class PrefectSteps(Steps):
    """Every client's work as a Prefect task; what Prefect could not even begin while its server was away is done again.

    Args:
        store: the run.
    """

    endings: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt, ExternalSignal)

    def __init__(self, store: RunStore) -> None:
        super().__init__(store)
        self._run_dir = str(store.folder)
        context = FlowRunContext.get()
        flow_run = context.flow_run if context else None
        self._pages = Pages(flow_run.id, store) if flow_run else None

    def one_round(self, make: "Round[Self]", server_round: int, before: RoundState | None) -> RoundState:  # noqa: ARG002 - the subflow knows it
        """Make a round in a subflow of its own name, with as many clients at work as the executor may have."""
        named = round_flow.with_options(
            flow_run_name=f"round-{server_round:03d}",
            task_runner=cast(Any, ThreadPoolTaskRunner)(max_workers=self.config.executor.places),
        )
        made = cast(RoundState, patiently(named)(self._run_dir, server_round, before))
        self.show(server_round)
        return made

    def do(self, step: str, work: Sequence[ClientTask]) -> list[object]:
        """A task per client's piece of work, all at once; Prefect tries again what may pass.

        Raises:
            Pause, Abort: a person ended the flow.
        """
        obey(self.store)
        ends = super().do(step, work) if {item.client for item in work} == {SERVER} else self._by_prefect(step, work)
        obey(self.store)  # what was ended has failed, and means nothing
        return ends

    def _by_prefect(self, step: str, work: Sequence[ClientTask]) -> list[object]:
        tried = patient(TASKS[step], self.config)
        futures = [tried.submit(item) for item in work]
        return [future.result(raise_on_failure=False) for future in futures]

    def draw(self, server_round: int) -> None:
        """Draw the charts, and show the round on the run's pages."""
        rounds = self.store.read_metrics()
        charts = list(draw_all(self.store.folder, self.config, rounds).values())
        if self._pages is not None:
            patiently(self._pages.publish)(server_round, rounds, charts)


@flow(name=ROUND, persist_result=False)
def round_flow(run_dir: str, server_round: int, before: RoundState | None) -> State[RoundState]:
    """One round: sample -> fit (one task per client) -> aggregate -> evaluate -> commit.

    Its state message says what came of it, and names the clients that sat it out.
    """
    store = RunStore.open(run_dir)
    tag_this_run(f"run:{store.info.name}", f"round:{server_round}")
    made = make_round(PrefectSteps(store), server_round, before)
    return Completed(data=made, message=_said(store, server_round))


def _said(store: RunStore, server_round: int) -> str:
    try:
        return round_message(store.config, server_round, store.read_metrics())
    except Exception as error:  # noqa: BLE001 - what only shows must not end a run
        logger.warning("what came of round {} is not said: {}: {}", server_round, type(error).__name__, error)
        return f"round {server_round} committed"


def tag_this_run(*tags: str) -> None:
    """Give tags to the flow run itself: those of a `prefect.tags` context would come to its task runs, too."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, tags=sorted({*context.flow_run.tags, *tags}))
