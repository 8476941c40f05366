"""Every chart of a run, drawn anew from its committed rounds."""

from collections.abc import Sequence
from pathlib import Path

from zk0.config import RunConfig
from zk0.metrics.values import Json
from zk0.report.charts import draw_charts, plain_words
from zk0.report.joints import draw_joint_charts


def draw_all(run_dir: Path, config: RunConfig, rounds: Sequence[Json]) -> dict[str, Path]:
    """Draw every chart that the rounds have figures for, and those of the joints.

    Args:
        run_dir: the run directory.
        config: the run's.
        rounds: lines of metrics.jsonl, by server_round.

    Returns:
        Name -> file.

    Raises:
        StorageError: a file of a round cannot be read, or a chart not be written.
    """
    unseen = [dataset.name for dataset in config.evaluation.datasets]
    clients = [client.name for client in config.clients]
    with plain_words():
        return draw_charts(run_dir, rounds, unseen) | draw_joint_charts(run_dir, rounds, [*clients, *unseen])
