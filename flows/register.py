"""Registers what `deployments/` describes with a Prefect server: work pool, deployments, notifications."""

import hashlib
import json
import pkgutil
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml  # type: ignore[import-untyped]  # no stubs
from loguru import logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

from flows import FLOW
from flows.process import ENGINE, OUTPUTS_VARIABLE, module_command
from zk0.errors import BadInputError

FOLDER = Path(__file__).parents[1] / "deployments"
PRIMARY = f"{FLOW}/nightly"
"""The deployment that takes up what has no flow run any more."""
KEPT_OF_A_SCHEDULE = ("schedule", "active", "max_scheduled_runs", "parameters", "slug")


def register(client: SyncPrefectClient, config: str | None, outputs: Path) -> str:
    """Register the work pool and the deployments; what is there unchanged keeps what was set in the UI.

    Args:
        client: of the server.
        config: the config of the scheduled runs, in the place of the one in the file.
        outputs: the folder of the runs.

    Returns:
        The work pool's name.
    """
    pool = ""
    for item in yaml.safe_load((FOLDER / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]:
        pool = item["work_pool"]["name"]
        try:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        except ObjectAlreadyExists:
            logger.debug("work pool {} is there", pool)
        _register_deployment(client, item, config, outputs)
    return pool


def deployment_id(client: SyncPrefectClient) -> UUID | None:
    """The primary deployment; None where the server does not know it (its database is new)."""
    try:
        return client.read_deployment_by_name(PRIMARY).id
    except ObjectNotFound:
        return None


def register_automations(client: SyncPrefectClient, notify: str | None) -> None:
    """Register the notifications of `automations.yaml`, replacing earlier ones of the same name.

    Args:
        client: of the server.
        notify: `block-type/name` of a Prefect notification block; None shows events in the UI only.

    Raises:
        BadInputError: there is no such block.
    """
    block = _block(client, notify) if notify else None
    for item in yaml.safe_load((FOLDER / "automations.yaml").read_text(encoding="utf-8")):
        for known in client.read_automations_by_name(item["name"]):
            client.delete_automation(known.id)
        client.create_automation(
            AutomationCore(
                name=item["name"],
                description=item.get("description", ""),
                trigger=EventTrigger(
                    expect=set(item["events"]),
                    match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
                    match_related=ResourceSpecification(
                        {"prefect.resource.role": "flow", "prefect.resource.name": FLOW}
                    ),
                    posture=Posture.Reactive,
                    threshold=1,
                ),
                actions=[
                    SendNotification(block_document_id=block, subject=item["subject"], body=item["body"])
                    if block
                    else DoNothing()
                ],
            )
        )


def _register_deployment(client: SyncPrefectClient, item: dict[str, Any], config: str | None, outputs: Path) -> None:
    parameters = dict(item["parameters"])
    if config is not None:
        parameters["config"] = str(Path(config).absolute()) if Path(config).is_file() else config
    parameters["outputs_dir"] = str(outputs)
    flow: Flow[..., Any] = pkgutil.resolve_name(item["entrypoint"])
    schema = parameter_schema(flow).model_dump_for_openapi()
    here = {
        "working_dir": str(Path.cwd()),
        "command": shlex.join(module_command(ENGINE)),
        "env": {OUTPUTS_VARIABLE: str(outputs)},
    }
    version = hashlib.sha256(json.dumps([item, parameters, schema, here]).encode()).hexdigest()[:12]
    known = _known(client, f"{flow.name}/{item['name']}")
    if known is not None and known.version == version:
        return
    limit = item["concurrency_limit"]
    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=item["name"],
        version=version,
        description=item["description"],
        tags=item["tags"],
        entrypoint=item["entrypoint"],
        parameters=parameters,
        parameter_openapi_schema=schema,
        enforce_parameter_schema=item["enforce_parameter_schema"],
        paused=known is not None and known.paused,
        schedules=_schedules(item["schedules"], known),
        concurrency_limit=limit["limit"],
        concurrency_options=ConcurrencyOptions(
            collision_strategy=limit["collision_strategy"], grace_period_seconds=limit["grace_period_seconds"]
        ),
        work_pool_name=item["work_pool"]["name"],
        job_variables={**here, **item["work_pool"].get("job_variables", {})},
    )


def _known(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _schedules(wanted: Sequence[dict[str, Any]], known: DeploymentResponse | None) -> list[DeploymentScheduleCreate]:
    """As they were set in the UI, unless the file's have changed; what a person paused or removed stays paused."""
    ours = {
        f"zk0-{hashlib.sha256(json.dumps(entry).encode()).hexdigest()[:8]}": (
            CronSchedule(cron=entry["cron"], timezone=entry["timezone"]),
            entry["active"],
        )
        for entry in wanted
    }
    there = known.schedules if known else []
    if there and {schedule.slug for schedule in there} >= set(ours):
        return [
            DeploymentScheduleCreate.model_validate(schedule.model_dump(include=set(KEPT_OF_A_SCHEDULE)))
            for schedule in there
        ]
    paused = known is not None and not any(schedule.active for schedule in there)
    return [
        DeploymentScheduleCreate(slug=slug, schedule=schedule, active=active and not paused)
        for slug, (schedule, active) in ours.items()
    ]


def _block(client: SyncPrefectClient, notify: str) -> UUID:
    kind, _, name = notify.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound as error:
        raise BadInputError(
            f"--notify {notify!r}: no such Prefect block; make one in the UI under Blocks, and name it type/name, "
            "such as slack-webhook/team"
        ) from error
