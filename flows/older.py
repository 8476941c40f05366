"""Flow runs that an earlier version of zk0 left in Prefect's database: they go on, with the parameters of this one."""

import os
from inspect import signature
from typing import Any
from uuid import UUID

import httpx
from loguru import logger
from prefect import Flow, get_client
from prefect.exceptions import PrefectException

from flows.rows import RUN_DIR_LABEL

NAME = "name"
"""A parameter of earlier versions: the run's name, which now is the flow run's."""


def bring_up_to_date(flow: Flow[..., Any]) -> None:
    """Drop the parameters that the flow has no more from the flow run that this process is to execute.

    Args:
        flow: as it is now.
    """
    flow_run_id = os.environ.get("PREFECT__FLOW_RUN_ID")
    if flow_run_id is None:
        return
    try:
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(UUID(flow_run_id))
            known = signature(flow.fn).parameters
            kept = {key: value for key, value in flow_run.parameters.items() if key in known}
            dropped = {key: value for key, value in flow_run.parameters.items() if key not in known}
            if dropped:
                named = dropped.get(NAME) if RUN_DIR_LABEL not in (flow_run.labels or {}) else None
                client.update_flow_run(flow_run.id, parameters=kept, name=str(named) if named else None)
                logger.info("flow run {} is of an earlier version: without {}", flow_run.name, sorted(dropped))
    except (httpx.HTTPError, PrefectException) as error:  # which Prefect's engine, next, meets too
        logger.warning("flow run {}: {}: {}", flow_run_id, type(error).__name__, error)
