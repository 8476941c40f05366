"""The federated run as a Prefect flow: the algorithm is `zk0.federation.round`'s, its steps are tasks."""

from prefect import flow

from flows import FLOW
from flows.advance import advanced_run, settings
from flows.steps import PrefectSteps
from tasks.prefect_logs import forward_logs
from zk0.federation.round import federate


@flow(name=FLOW, persist_result=False)
def federated_training(
    config: str = "sim",
    overrides: list[str] = [],  # noqa: B006
    continue_from: str | None = None,
    outputs_dir: str | None = None,
) -> str:
    """Train, or go on training, one run; returns the path of the final policy.

    The flow run's own name, where a person gives it one, is the run's: an unfinished run of that name goes on.

    Args:
        config: a shipped config (sim, so100), a TOML file, or the directory of a run that is to go on.
        overrides: single keys to change, such as training.steps=20.
        continue_from: the run whose weights this one starts from, such as latest; empty: as the config says.
        outputs_dir: the folder of the runs; empty: as the config says.
    """
    changes = [*settings(continue_from, outputs_dir), *overrides]
    with advanced_run(config, changes) as store, forward_logs():
        steps = PrefectSteps(store)
        federate(steps)
        return str(steps.finish())
