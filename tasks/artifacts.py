"""What a run shows on its pages in Prefect: progress, a table per round, charts, and base against newest round."""

import base64
import re
from collections.abc import Sequence

from loguru import logger
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
)
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.step import step
from zk0.metrics.values import Json
from zk0.report.charts import CHARTS
from zk0.report.joints import TITLE as JOINTS_TITLE
from zk0.report.markdown import round_message, round_table, summary
from zk0.report.pictures import draw_all
from zk0.runs.store import RunStore


@step("show-{server_round:03d}")
def show(run_dir: str, server_round: int) -> State[None]:
    """Show a committed round; its state message names the clients that sat it out.

    A page is not worth a run: what cannot be shown is named in the log, and shown with the next round.
    """
    store = RunStore.open(run_dir)
    rounds = store.read_metrics()
    message = f"round {server_round} committed"
    try:
        message = round_message(store.config, server_round, rounds)
        publish(store, server_round, rounds)
    except Exception as error:  # noqa: BLE001 - what only shows must not end a run
        logger.warning("round {} is not shown in Prefect: {}: {}", server_round, type(error).__name__, error)
    return Completed(message=message)


def publish(store: RunStore, server_round: int, rounds: Sequence[Json]) -> None:
    """Draw the charts, and make the artifacts of the run and of one round.

    Args:
        store: the run.
        server_round: the round that was committed.
        rounds: the lines of metrics.jsonl.
    """
    config, name = store.config, store.info.name
    key = _key(name)
    total = config.federation.num_rounds
    create_progress_artifact(
        100.0 * server_round / total, f"{key}-progress", f"{name}: round {server_round} of {total} committed"
    )
    create_table_artifact(
        round_table(config, server_round, rounds),
        f"{key}-round-{server_round:03d}",
        f"{name}, round {server_round}: what each client did",
    )
    for chart, path in draw_all(store.folder, config, rounds).items():
        picture = base64.b64encode(path.read_bytes()).decode()
        title = CHARTS[chart][0] if chart in CHARTS else JOINTS_TITLE
        create_image_artifact(f"data:image/png;base64,{picture}", f"{key}-{_key(chart)}", f"{name}: {title}")
    create_markdown_artifact(summary(store, rounds), f"{key}-summary", f"{name}: the base beside the newest round")


def _key(name: str) -> str:
    """Prefect's spelling of an artifact's key."""
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")
