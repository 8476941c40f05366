"""Prefect's own processes, the worker and those of flow runs, started so that they find the flow that is ours."""

import os
import runpy
import sys
from collections.abc import Sequence

from flows.settings import set_defaults
from zk0.runs import processes

ENGINE = "prefect.engine"
"""The module that executes one flow run."""
OUTPUTS_VARIABLE, FLOW_RUN_VARIABLE = "ZK0_SERVED_OUTPUTS", "PREFECT__FLOW_RUN_ID"
"""Environment variables of its process: the folder of the runs of its service, and its flow run's id."""


def module_command(name: str, *arguments: str) -> list[str]:
    """The command of a process that calls `run_module`.

    Args:
        name: as `python -m` takes it.
        arguments: of the module.
    """
    return [sys.executable, "-P", "-m", "zk0.cli", "module", name, *arguments]


def run_module(name: str, arguments: Sequence[str]) -> None:
    """`python -m NAME ARGUMENTS`, with the flow and all that it needs imported already.

    Prefect imports a flow with the working directory first on the path, where any file may lie under any name: what is
    there already is not looked for.

    Args:
        name: of the module.
        arguments: what it finds in `sys.argv`.
    """
    set_defaults()
    if name == ENGINE:
        processes.show(os.environ.get(OUTPUTS_VARIABLE, ""), os.environ.get(FLOW_RUN_VARIABLE, ""))
    from flows.federated_training import federated_training

    if name == ENGINE:
        from flows.older import bring_up_to_date

        bring_up_to_date(federated_training)
    sys.argv[1:] = arguments
    # `__main__` stays what it is, the command line: workers import it anew, and Prefect's engine takes seconds.
    runpy.run_module(name, run_name="__main__")
