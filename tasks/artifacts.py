"""What a run shows on its pages in Prefect: progress, a table of the newest round, all charts, base against newest.

Each is one artifact of the flow run, made once and changed in place: on the timeline an artifact of a task run is a
label that covers the bars, and of every version Prefect keeps two copies.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from zk0.layout import CHARTS_FOLDER
from zk0.metrics.values import Json
from zk0.report.markdown import round_table, summary
from zk0.report.pictures import sheet
from zk0.runs.store import RunStore

OF_ITS_OWN = {"timeout": 60.0}
"""Seconds. With any setting of its own Prefect makes a client for this thread: the flow's counts who has it open."""


class Shown(NamedTuple):
    """One artifact."""

    key: str
    type: str
    """As Prefect names it."""
    data: object
    description: str


class Pages:
    """The artifacts of a flow run.

    Args:
        flow_run_id: of the flow run.
        store: the run that it advances.
    """

    def __init__(self, flow_run_id: UUID, store: RunStore) -> None:
        self._flow_run_id = flow_run_id
        self._store = store
        self._run = {"run directory": str(store.folder)}
        self._known: dict[str, UUID] = {}

    def publish(self, server_round: int, rounds: Sequence[Json], charts: Sequence[Path]) -> None:
        """Show a committed round.

        Args:
            server_round: the round.
            rounds: the lines of metrics.jsonl.
            charts: what was drawn of them.
        """
        with get_client(OF_ITS_OWN, sync_client=True) as client:
            for shown in made(self._store, server_round, rounds, charts):
                self._put(client, shown)

    def _put(self, client: SyncPrefectClient, shown: Shown) -> None:
        known = self._known.get(shown.key) or self._found(client, shown.key)
        if known is None or not _changed(client, known, shown):
            empty = ArtifactCreate(key=shown.key, type=shown.type, flow_run_id=self._flow_run_id, metadata_=self._run)
            known = client.create_artifact(empty).id
            _changed(client, known, shown)
        self._known[shown.key] = known

    def _found(self, client: SyncPrefectClient, key: str) -> UUID | None:
        """Our own from before a crash; those of earlier flow runs of the run are replaced, and go."""
        ours = None
        for artifact in client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))):
            if artifact.flow_run_id == self._flow_run_id:
                ours = artifact.id
            elif artifact.metadata_ == self._run:  # a run elsewhere may have the same name
                client.delete_artifact(artifact.id)
        return ours


def made(store: RunStore, server_round: int, rounds: Sequence[Json], charts: Sequence[Path]) -> Iterator[Shown]:
    """The artifacts of a run, after a round."""
    name, total = store.info.name, store.config.federation.num_rounds
    done = f"{name}: round {server_round} of {total}"
    key = _key(name)
    yield Shown(f"{key}-progress", "progress", 100.0 * server_round / total, f"{done} committed")
    table = json.dumps(round_table(store.config, server_round, rounds))
    yield Shown(f"{key}-round", "table", table, f"{done}: what each client came to, and what it took")
    if charts:
        picture, drawn = sheet(charts)
        rest = f"; {len(charts) - drawn} more in {store.folder / CHARTS_FOLDER}" if drawn < len(charts) else ""
        image = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        yield Shown(f"{key}-charts", "image", image, f"{done}: all charts{rest}")
    yield Shown(f"{key}-summary", "markdown", summary(store, rounds), f"{done}: the base beside the newest round")


def _changed(client: SyncPrefectClient, artifact_id: UUID, shown: Shown) -> bool:
    """Fill an artifact; False where somebody deleted it.

    A plain request, and after an empty beginning: Prefect's own methods send an event with all that is new, pictures
    too, which then lies in the database once more.
    """
    new = ArtifactUpdate(data=shown.data, description=shown.description).model_dump(mode="json", exclude_unset=True)
    try:
        client.request("PATCH", "/artifacts/{id}", json=new, path_params={"id": artifact_id})
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:
            return False
        raise
    return True


def _key(name: str) -> str:
    """Prefect's spelling of an artifact's key."""
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")
