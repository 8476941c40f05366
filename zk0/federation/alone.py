"""A run from its start to its final policy in this process, by plain calls."""

from collections.abc import Callable
from pathlib import Path

from zk0.config import RunConfig
from zk0.executors.choice import warm_up
from zk0.executors.stopping import end_fork_server
from zk0.federation import before_run
from zk0.federation.before_run import strictly
from zk0.federation.round import federate
from zk0.federation.start import Check, advancing, begin, check_again
from zk0.federation.steps import Steps
from zk0.runs.store import RunStore


def run_alone(
    what: RunConfig | RunStore,
    name: str | None = None,
    stem: str = "run",
    *,
    strict: bool = False,
    check: Check = before_run.check,
    make_steps: Callable[[RunStore], Steps] = Steps,
) -> Path:
    """Begin a run, or go on with one, and train it to its end.

    Args:
        what: the wanted config; or a run that goes on.
        name: see `start.begin`.
        stem: see `start.begin`.
        strict: whether a warning of the checks before it is an error.
        check: the checks before it.
        make_steps: how its steps are done.

    Returns:
        The run directory.

    Raises:
        Zk0Error: as `zk0.run`.
    """
    try:
        return _run(what, name, stem, strictly(check) if strict else check, make_steps)
    except KeyboardInterrupt:
        end_fork_server()  # a notebook lives on, and with it what it has started
        raise


def _run(
    what: RunConfig | RunStore, name: str | None, stem: str, check: Check, make_steps: Callable[[RunStore], Steps]
) -> Path:
    config = what.config if isinstance(what, RunStore) else what
    warm_up(config)
    if isinstance(what, RunStore):
        check_again(what, check)
        store = what
    else:
        store = begin(what, name, stem, check=check)
    try:
        with advancing(store):
            steps = make_steps(store)
            federate(steps)
            steps.finish()
    except KeyboardInterrupt:
        store.mark_stopped()
        raise
    return store.folder
