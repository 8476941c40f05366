"""The federated run as a Prefect flow: the algorithm is `zk0.federation.round`'s, its steps are tasks."""

from prefect import flow

from flows import FLOW
from flows.advance import advanced_run
from flows.steps import PrefectSteps
from tasks.prefect_logs import forward_logs
from zk0.federation.round import federate


@flow(name=FLOW, persist_result=False)
def federated_training(config: str = "sim", overrides: list[str] = [], name: str | None = None) -> str:  # noqa: B006
    """Train, or go on training, one run; returns the path of the final policy.

    Args:
        config: a shipped config (sim, so100), a TOML file, or the directory of a run that is to go on.
        overrides: single keys to change, such as training.steps=20.
        name: the run's name; empty: an unfinished run of this config goes on, and without one the next starts.
    """
    with advanced_run(config, overrides, name) as store, forward_logs():
        steps = PrefectSteps(store)
        federate(steps)
        return str(steps.finish())
