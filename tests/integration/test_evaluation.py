"""Quick and full rounds, and schedules that act on what they find: core functions, without Prefect."""

from collections.abc import Callable

import numpy as np
import pytest

from zk0.client.run import run_task
from zk0.config import RunConfig
from zk0.data.datasets import build_dataset, open_metadata
from zk0.executors.process import ProcessExecutor
from zk0.federation import commit as durable
from zk0.federation.outcomes import Outcomes
from zk0.federation.round import evaluation_work, fit_work
from zk0.federation.server import Aggregated, aggregate, sample
from zk0.files import atomic
from zk0.learning.policy import base_path, load_policy_config
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore

pytestmark = pytest.mark.slow
ADAPTIVE = {"plateau_patience": 0, "boost_max": 3.0, "mu_step": 0.1, "mu_patience": 1}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has torch and scipy: the same functions without the 15 s that another one takes to import them."""
    monkeypatch.setattr(ProcessExecutor, "call", lambda self, function, *arguments: function(*arguments))


def commit(
    store: RunStore, before: RoundState | None, after: RoundState, aggregated: Aggregated, fits: Outcomes
) -> None:
    evaluations = Outcomes([run_task(item) for item in evaluation_work(store, after)])
    durable.commit(store, before, after, aggregated, fits + evaluations, 0.0)


def one_round(store: RunStore, number: int) -> None:
    before = store.state(number - 1)
    work = fit_work(store, number, sample(store, number, before), before)
    fits = Outcomes([run_task(item) for item in work])
    aggregated = aggregate(store, number, before, fits)
    commit(store, before, RoundState(server_round=number, arrays=aggregated.arrays), aggregated, fits)


def test_a_run_with_quick_rounds_and_adaptive_schedules(small_config: Callable[..., RunConfig], here: None) -> None:
    config = small_config(
        evaluation={"frame_stride": 12, "quick_stride": 2, "full_every": 0, "holdout_episodes": 2},
        federation={"num_rounds": 2, "min_train_clients": 2, "strategy": "fedprox", "proximal_mu": 0.01},
        adaptive=ADAPTIVE,
        report__joint_charts=True,
        training__lr=0.5,  # far too much: what is learnt makes everything worse
        training__scheduler="constant",
    )
    store = RunStore.create_or_open(config, "adaptive")
    initial = run_task(store.task("init", 0, "server"))
    assert initial.tensors is not None
    zero = RoundState(server_round=0, arrays=initial.tensors)
    commit(store, None, zero, Aggregated(arrays=initial.tensors, metrics={}), Outcomes())
    one_round(store, 1)
    state = store.state(1)
    work = fit_work(store, 2, sample(store, 2, state), state)
    again = RunStore.open(store.folder)  # as after a kill
    assert [item.key for item in fit_work(again, 2, sample(again, 2, state), state)] == [item.key for item in work]
    one_round(again, 2)
    base, quick, last = store.read_metrics()
    check_frames(store, base, quick, last)
    check_decisions(config, quick, last)


def check_frames(store: RunStore, base: dict, quick: dict, last: dict) -> None:
    assert [line["evaluation"] for line in (base, quick, last)] == ["full", "quick", "full"]
    full, few = base["evaluate"]["kitchen"], quick["evaluate"]["kitchen"]
    frames = sum(open_metadata(store.config.clients[0]).episodes["length"][-2:])
    assert (full["num_examples"], few["num_examples"]) == (-(-frames // 12), -(-frames // 24))
    assert full["quick"]["num_examples"] == few["num_examples"]
    assert full["quick"]["episodes"]["steps"] == few["episodes"]["steps"]
    assert full["quick"]["action_error_deg"] != full["action_error_deg"]
    for line, of_base in ((quick, full["quick"]), (last, full)):
        change = line["change"]["datasets"]["kitchen"]["action_error_deg"]
        expected = line["evaluate"]["kitchen"]["action_error_deg"] - of_base["action_error_deg"]
        assert change["mean"] == pytest.approx(expected, abs=1e-5)
    low, high = full["interval_95"]["joint_error"]["elbow_flex"]
    assert low < full["joint_error"]["elbow_flex"] < high
    joints = store.round_folder(0) / "clients" / "kitchen" / "evaluate.safetensors"
    assert not (store.round_folder(1) / "clients" / "kitchen" / "evaluate.safetensors").exists()
    check_joints(store, atomic.read_tensors(joints))


def check_joints(store: RunStore, tensors: dict[str, np.ndarray]) -> None:
    """What was recorded is the first held-out episode, frame by frame."""
    meta = open_metadata(store.config.clients[0])
    first = meta.total_episodes - 2
    chunks = load_policy_config(store.config.policy, base_path(store.config.policy, store.folder))
    frames = build_dataset(store.config.clients[0], meta, chunks, store.config.data, [first])
    recorded = np.stack([np.asarray(action) for action in frames.hf_dataset["action"]])
    np.testing.assert_allclose(tensors["recorded"], recorded, atol=1e-5)
    assert tensors["predicted"].shape == recorded.shape
    assert 0 < np.abs(tensors["predicted"] - recorded).mean() < 60


def check_decisions(config: RunConfig, quick: dict, last: dict) -> None:
    assert quick["summary"]["loss"] > 0
    errors = {name: item["action_error_deg"] for name, item in quick["evaluate"].items()}
    worst = max(errors, key=lambda name: errors[name])
    decided = last["adaptive"]
    expected = round(config.training.steps * min(3.0, errors[worst] / (sum(errors.values()) / 2)))
    assert decided["steps"][worst] == expected
    assert {name: fit["steps"] for name, fit in last["train"].items()} == decided["steps"]
    assert decided["lr_scale"] == 0.5, decided
    assert {fit["lr"] for fit in last["train"].values()} == {0.25}
    assert decided["proximal_mu"] == pytest.approx(0.11)
    assert len(decided["changes"]) >= 2
