"""`zk0 compare`: a finished run beside each client alone and all data pooled, with the same budget and hold-outs.

Every arm is trained by the work that a run consists of, into `<run>/compare/<arm>/`: what is finished there is found
again, so that a comparison that was killed goes on, and one that was made is only read.
"""

import shutil
import statistics
from collections.abc import Callable, Sequence
from typing import Self

from zk0.aggregation.server_round import RoundPlan, ServerRound
from zk0.config import SUPERLINK, FederationConfig, RunConfig, TrackingConfig
from zk0.errors import RunNameError
from zk0.executors.choice import own_executor
from zk0.executors.process import ProcessExecutor
from zk0.federation.guard import run_guarded
from zk0.federation.outcomes import Outcomes
from zk0.federation.round import evaluation_work, federate
from zk0.federation.server import Aggregated
from zk0.federation.steps import Round, Steps
from zk0.files.atomic import is_folder
from zk0.layout import BASE_FOLDER, COMPARE_FOLDER
from zk0.metrics import units
from zk0.metrics.arms import FEDERATED, ArmResult, Comparison
from zk0.metrics.units import ACTION_ERROR
from zk0.metrics.values import Json
from zk0.runs import described
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore, is_finished
from zk0.seeding import derive_seed
from zk0.work.executor import STOPPED, Executor
from zk0.work.records import POOLED, ArtifactRef, ClientTask


def compare(store: RunStore, processes: ProcessExecutor, say: Callable[[str], None] = lambda _: None) -> Comparison:
    """Train what is missing for a comparison, and evaluate it.

    One client's arm is trained and evaluated where the run's clients are; the pooled one, which reads everybody's
    recordings, in processes, and over a link not at all.

    Args:
        store: a finished run.
        processes: where what no container is for is done.
        say: told of every arm that is about to be trained or looked up.

    Raises:
        RunNameError: the run is not finished.
        ConfigError: the run's clients are in containers, and none can be made.
        ClientError: an arm's work died; what is finished is kept, and the same call goes on.
    """
    if not is_finished(store):
        raise RunNameError(
            f"run {store.info.name!r} is not finished; go on with it first: zk0 resume {store.info.name}"
        )
    STOPPED.clear()
    clients = [client.name for client in store.config.clients]
    unseen = [dataset.name for dataset in store.config.evaluation.datasets]
    own = own_executor(store.config, processes)

    def learned(name: str, folder: str, learner: str) -> ArmResult:
        say(name)
        arm = Arm(store, folder, learner, processes if learner == POOLED else own)
        return ArmResult(name, _known(arm.evaluations()))

    alone = [learned(f"{client} alone", f"alone-{client}", client) for client in clients]
    over_link = store.config.executor.kind == SUPERLINK
    pooled = [] if over_link else [learned("pooled", "pooled", POOLED)]  # recordings leave no node
    rounds = {line["server_round"]: line["evaluate"] for line in store.read_metrics()}
    base, federated = (
        ArmResult(name, _known({key: rounds[number].get(key, {}) for key in [*clients, *unseen]}))
        for name, number in (("base", 0), (FEDERATED, store.config.federation.num_rounds))
    )
    arms = [base, *alone, _mean_of(alone), federated, *pooled]
    return Comparison(store.info.name, derive_seed(store.config.seed, 0, "", "bootstrap"), clients, unseen, arms)


class Arm(Steps):
    """One learner without a federation: a client alone, or one that has all recordings.

    It makes as many rounds as the run, from the run's own first tensors, with its optimizer fresh or kept as the run's
    clients have it; a round's result is the next one's start. What `peft.aggregation` does to adapters is done to it
    too; the adaptive schedules are not. Its rounds are not committed: what is finished is found again.

    Args:
        run: the run that it is compared with.
        name: of its folder.
        learner: the client, or POOLED.
        executor: where its work is done.
    """

    def __init__(self, run: RunStore, name: str, learner: str, executor: Executor) -> None:
        folder = run.folder / COMPARE_FOLDER
        changes = {
            "outputs_dir": str(folder),
            "tracking": TrackingConfig(),
        }  # a tracker shows the run, and not its arms
        super().__init__(RunStore.create_or_open(run.config.model_copy(update=changes), name))
        described.keep(self.store.folder, described.read(run.folder, [client.name for client in run.config.clients]))
        self._run = run
        self._learner = learner
        self._executor = executor
        self._server = _federation_of_one(self.config, learner)

    def evaluations(self) -> dict[str, Json]:
        """Dataset -> its evaluation after the last round; trains what is not done yet."""
        with self.store.lock():
            last = federate(self)
            found = self.each("evaluate", evaluation_work(self.store, last), all_needed=True)
        return {result.client: result.metrics for result in found.results}

    def resume_point(self) -> None:
        """None is committed."""

    def one_round(self, make: Round[Self], server_round: int, before: RoundState | None) -> RoundState:
        """As in a run, but for round 0, which is the run's."""
        return self._begin() if before is None else make(self, server_round, before)

    def _begin(self) -> RoundState:
        first = self._run.state(0)
        if is_folder(base := self._run.folder / BASE_FOLDER):  # of a policy made from scratch
            shutil.copytree(base, self.store.folder / BASE_FOLDER, dirs_exist_ok=True)
        arrays = self.store.place(0, "global", self._run.path(first.arrays))
        return RoundState(server_round=0, arrays=arrays, stats=self._statistics())

    def _statistics(self) -> ArtifactRef | None:
        """Of the learner's own training episodes; None where the base's are used."""
        if self.config.data.normalization == "base":
            return None
        members = [client.name for client in self.config.clients if self._learner in (client.name, POOLED)]
        work = [self.store.task("statistics", 0, name) for name in members]
        return self.aggregate_statistics(self.each("prepare", work, all_needed=True, but="bad_data")).stats

    def sample(self, server_round: int, before: RoundState) -> RoundPlan:
        """The learner alone."""
        del server_round, before
        return RoundPlan([self._learner], proximal_mu=0.0)

    def do(self, step: str, work: Sequence[ClientTask]) -> list[object]:
        """One piece after the other; what runs out of memory is done again in smaller micro-batches, as in a run."""
        del step
        return [run_guarded(self._executor.run, item, self.config) for item in work]

    def aggregate(self, server_round: int, before: RoundState, fits: Outcomes) -> Aggregated:
        """By FedAvg over one client, whose average is its own update."""
        outcome = ServerRound(self._server, server_round, self.store.path(before.arrays)).aggregate(
            fits.results, self.store.folder
        )
        arrays = self.store.place(server_round, "global", outcome.tensors)
        return Aggregated(arrays=arrays, metrics=outcome.metrics)

    def evaluate(self, evaluations: Sequence[ClientTask], rollouts: Sequence[ClientTask]) -> Outcomes:
        """Not in every round: the last one's figures are compared."""
        del evaluations, rollouts
        return Outcomes()

    def commit(
        self, before: RoundState | None, after: RoundState, aggregated: Aggregated, did: Outcomes, duration_s: float
    ) -> RoundState:
        """Nothing is committed; the learner's optimizer goes on where the run's clients' do."""
        del before, aggregated, duration_s
        kept = {result.client: result.optimizer for result in did.results if result.optimizer is not None}
        return after.model_copy(update={"optimizers": kept})

    def show(self, server_round: int) -> None:
        """The comparison is shown as a whole."""


def _federation_of_one(config: RunConfig, learner: str) -> RunConfig:
    """The run's config with FedAvg over one client, whose average is its own update."""
    only = config.clients[0].model_copy(update={"name": learner})
    plain = FederationConfig(num_rounds=config.federation.num_rounds)
    return config.model_copy(update={"clients": [only], "federation": plain})


def _mean_of(arms: Sequence[ArmResult]) -> ArmResult:
    """Their mean, episode by episode."""
    means: dict[str, Json] = {}
    for name in arms[0].figures:
        episodes = [arm.figures[name]["episodes"] for arm in arms]
        key = units.key_in(arms[0].figures[name], ACTION_ERROR)
        errors = [statistics.fmean(known) for known in zip(*(item[key] for item in episodes), strict=True)]
        error = statistics.fmean(arm.errors[name] for arm in arms)
        means[name] = {key: error, "episodes": {"steps": episodes[0]["steps"], key: errors}}
    return ArmResult("mean of the clients alone", means)


def _known(evaluations: dict[str, Json]) -> dict[str, Json]:
    if lacking := [name for name, figures in evaluations.items() if units.value(figures, ACTION_ERROR) is None]:
        raise RunNameError(f"there is no action error on {lacking[0]!r} to compare with: its evaluation failed")
    return evaluations
