"""A client that lies in everything it sends, in a run as a user starts it: the others' policy comes out whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import zk0
from zk0.config import RunConfig
from zk0.executors.process import ProcessExecutor
from zk0.files import atomic
from zk0.layout import result_file
from zk0.work import quarantine
from zk0.work.records import ArtifactRef, ClientResult, ClientTask
from zk0.work.results import find_finished

pytestmark = pytest.mark.slow
LIAR = "greenhouse"


def lie(task: ClientTask, result: ClientResult) -> None:
    """Change what an honest worker left, as a container could: everything in its folder is its own to write."""
    record = result.model_dump(mode="json")
    if task.kind == "evaluate":
        record["metrics"] |= {"joints": ["$\\frac{$"] * 9, "action_error_deg": -1.0}
    elif task.kind == "statistics":
        record["num_examples"] = -5
    elif task.server_round == 1:
        assert result.tensors is not None
        path = Path(task.run_dir) / result.tensors.path
        moved = {name: np.asarray(1e6 * value, value.dtype) for name, value in atomic.read_tensors(path).items()}
        digest = atomic.write_tensors(path, moved)
        record["tensors"] = ArtifactRef(path=result.tensors.path, sha256=digest.sha256, size=digest.size).model_dump()
    else:
        record["num_examples"] = 10**12
    atomic.write_sealed(task.folder / result_file(task.kind), record)


def test_a_client_that_lies_costs_the_others_nothing(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ProcessExecutor.run

    def run(self: ProcessExecutor, task: ClientTask) -> ClientResult:
        result = honest(self, task)
        if task.client != LIAR or (task.kind == "evaluate" and task.server_round == 0):
            return result
        lie(task, result)
        found = find_finished(task)
        assert found is not None
        return found

    monkeypatch.setattr(ProcessExecutor, "run", run)
    names = ("kitchen", "workshop", LIAR)
    clients = [{"name": name, "repo_id": f"zk0/{name}", "root": f"asset:datasets/{name}"} for name in names]
    config = small_config(
        clients=clients,
        federation__admission={"quarantine_after": 2},
        federation__may_miss=1,
        data__normalization="federated",
    )
    done = zk0.run(config, name="lied-to")
    assert done.finished
    assert [(item["client"], item["kind"]) for item in done.metrics[0]["failures"]] == [(LIAR, "statistics")]
    for line in done.metrics[1:]:
        failed = {(item["client"], item["kind"], item["cause"]) for item in line["failures"]}
        assert failed == {(LIAR, "train", "bad_data"), (LIAR, "evaluate", "bad_data")}
        assert set(line["admission"]["norms"]) == {"kitchen", "workshop"}
        assert set(line["evaluate"]) >= {"kitchen", "workshop"}
        assert 0 < line["summary"]["action_error_deg"] < 90
    messages = [item["message"] for line in done.metrics[1:] for item in line["failures"]]
    assert any("times the usual" in message for message in messages)
    assert any("were counted before the run" in message for message in messages)
    assert any("its record says metrics." in message for message in messages)
    found = quarantine.read(done.path, LIAR)
    assert found is not None
    assert len(found.reasons) == 2
