"""MLflow: online where MLFLOW_TRACKING_URI says, offline in its file store in the run directory."""

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run

from zk0.tracking.tracker import Figures, Told

TAG = "zk0.run_id"
"""By which a run finds its own again."""
MOST_METRICS = 1000
"""In one request, by MLflow's interface."""
MOST_PARAMS = 100
LONGEST_PARAM = 500
"""Characters, which every version of MLflow takes."""


class MLflow:
    """Its run is found by a tag; what is missing is asked metric by metric, for a round may have been sent in part.

    Args:
        told: of the run.
    """

    def __init__(self, told: Told) -> None:
        self._told = told
        if told.offline:
            os.environ.update(MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_DISABLE_TELEMETRY="true")
        self._client = MlflowClient(tracking_uri=told.folder.as_uri() if told.offline else None)
        known = self._client.get_experiment_by_name(told.project)
        experiment = known.experiment_id if known else self._client.create_experiment(told.project)
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{told.id}'", max_results=1)
        self._run = found[0] if found else self._created(experiment)

    def _created(self, experiment: str) -> Run:
        run = self._client.create_run(experiment, tags={TAG: self._told.id}, run_name=self._told.name)
        params = [Param(key, value[:LONGEST_PARAM]) for key, value in _flat(self._told.config)]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run.info.run_id, params=params[first : first + MOST_PARAMS])
        return run

    def missing(self, rounds: Mapping[int, Figures]) -> Mapping[int, Figures]:
        """The metrics without a value at the round's step."""
        names = {name for figures in rounds.values() for name in figures}
        there = {name: self._steps(name) for name in names & self._run.data.metrics.keys()}
        left = {
            number: {name: value for name, value in figures.items() if number not in there.get(name, ())}
            for number, figures in rounds.items()
        }
        return {number: figures for number, figures in left.items() if figures}

    def _steps(self, name: str) -> set[int]:
        return {metric.step for metric in self._client.get_metric_history(self._run.info.run_id, name)}

    def log(self, server_round: int, at: datetime, figures: Figures) -> None:
        """Write the round's metrics."""
        when = int(1000 * at.timestamp())
        metrics = [Metric(name, value, when, server_round) for name, value in figures.items()]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run.info.run_id, metrics=metrics[first : first + MOST_METRICS])

    def close(self) -> None:
        """Say whether the run is over."""
        if self._told.finished:
            self._client.set_terminated(self._run.info.run_id)


def _flat(config: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Every key with its value as text; a list of tables is told as one."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{key}.")
        else:
            yield f"{within}{key}", str(value)
