"""A client's finished work is found by its key, and only whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.unit.runs.made import commit, weights
from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.runs.store import RunStore
from zk0.work.promised import check_promised
from zk0.work.records import ClientResult, TaskKind
from zk0.work.results import find_finished, write_result


def test_finished_work_is_found_by_its_key_and_only_whole(store: RunStore, warnings: list[str]) -> None:
    state = commit(store, 0)
    task = store.task("train", 1, "kitchen", state, proximal_mu=0.5)
    assert find_finished(task) is None
    result = write_result(
        task, tensors=weights(1), num_examples=5, metrics={"loss": 0.5}, duration_s=1.0, peak_rss_bytes=1
    )
    assert result.tensors is not None
    assert result.tensors.path == "rounds/0001/clients/kitchen/update.safetensors"
    assert find_finished(task) == result
    assert find_finished(store.task("train", 1, "kitchen", state, proximal_mu=0.25)) is None
    assert warnings == []
    path = store.path(result.tensors)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert find_finished(task) is None
    path.unlink()
    assert find_finished(task) is None
    (task.folder / "train.json").write_text('{"key": ')
    assert find_finished(task) is None
    assert len(warnings) == 3
    assert all("kitchen" in line for line in warnings)


def test_kinds_lie_side_by_side(store: RunStore) -> None:
    task = store.task("statistics", 0, "kitchen")
    result = write_result(
        task, tensors={"mean": np.ones(2)}, num_examples=5, metrics={}, duration_s=1.0, peak_rss_bytes=1
    )
    init = store.task("init", 0, "kitchen")
    write_result(init, tensors=None, num_examples=0, metrics={"tensors": 3}, duration_s=0.1, peak_rss_bytes=1)
    assert sorted(path.name for path in task.folder.iterdir()) == [
        "init.json", "statistics.json", "statistics.safetensors"
    ]  # fmt: skip
    assert find_finished(task) == result
    assert find_finished(init) is not None


# -- what a record says


def evaluation(**changes: Any) -> dict[str, Any]:
    """As an honest client's, of two joints and two episodes."""
    return {
        "action_error_deg": 3.0,
        "gripper_error": None,
        "loss": 0.2,
        "joint_error": {"left arm/joint_1": 2.0, "motor 2 [deg]": 4.0},
        "joints": ["left arm/joint_1", "motor 2 [deg]"],
        "interval_95": {"action_error_deg": [1.0, 5.0], "gripper_error": None, "joint_error": {"motor 2 [deg]": None}},
        "episodes": {"steps": [10, 12], "action_error_deg": [2.5, 3.5], "gripper_error": None},
        "evaluation": "full",
        "peak_ram_bytes": 10**9,
        **changes,
    }


def rollout(**changes: Any) -> dict[str, Any]:
    figures = {"successes": 3, "episodes": 4, "success_rate": 0.75, "interval_95": {"success_rate": [0.2, 0.9]}}
    return {**figures, **changes}


NAN, INF = float("nan"), float("inf")
LIES: dict[str, tuple[TaskKind, dict[str, Any], str]] = {
    "loss": ("train", {"loss": NAN}, "metrics.loss"),
    "infinite": ("train", {"loss": 0.5, "lr": INF}, "metrics.lr"),
    "huge": ("train", {"loss": 1e31}, "metrics.loss"),
    "text": ("train", {"loss": "low"}, "metrics.loss"),
    "list": ("train", {"loss": [0.1] * 9}, "metrics.loss"),
    "many": ("train", {f"m{number}": 0.5 for number in range(300)}, "metrics"),
    "name": ("train", {"<script>": 0.5}, "is no plain name"),
    "formula": ("train", {"$\\frac{": 0.5}, "is no plain name"),
    "long name": ("train", {"x" * 101: 0.5}, "metrics."),
    "escape": ("train", {"\x1b[31m": 0.5}, "is no plain name"),
    "error": ("evaluate", evaluation(action_error_deg=NAN), "metrics.action_error_deg"),
    "negative": ("evaluate", evaluation(action_error_deg=-1.0), "metrics.action_error_deg"),
    "joint": ("evaluate", evaluation(joint_error={"$x$": 1.0}), "is no plain name"),
    "joints": ("evaluate", evaluation(joints=[f"j{number}" for number in range(300)]), "metrics.joints"),
    "interval": ("evaluate", evaluation(interval_95={"action_error_deg": [NAN, INF]}), "metrics.interval_95"),
    "frames": ("evaluate", evaluation(evaluation="some"), "metrics.evaluation"),
    "episodes": (
        "evaluate",
        evaluation(episodes={"steps": [1] * 20_000, "action_error_deg": None, "gripper_error": None}),
        "metrics.episodes.steps",
    ),
    "steps": (
        "evaluate",
        evaluation(episodes={"steps": [10**400, 9], "action_error_deg": [1.0, 2.0], "gripper_error": None}),
        "metrics.episodes.steps",
    ),
    "successes": ("rollout", rollout(successes=5), "5 successes in 4 episodes"),
    "rate": ("rollout", rollout(success_rate=7.0), "metrics.success_rate"),
}


def written(store: RunStore, kind: TaskKind, metrics: dict[str, Any], **changes: Any) -> Any:
    task = store.task(kind, 1, "kitchen", commit(store, 0))
    more = {"num_examples": 5, "duration_s": 1.0, "peak_rss_bytes": 1, **changes}
    write_result(task, tensors=None, metrics=metrics, **more)
    return task


@pytest.mark.parametrize("lie", LIES)
def test_figures_that_cannot_be_cost_their_client_the_attempt_by_name(store: RunStore, lie: str) -> None:
    kind, metrics, words = LIES[lie]
    with pytest.raises(ClientError) as caught:
        find_finished(written(store, kind, metrics))
    assert caught.value.cause == "bad_data"
    assert f"{kind} of 'kitchen', round 1: its record says " in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("change", [{"duration_s": NAN}, {"duration_s": -1.0}, {"peak_rss_bytes": 2**70}])
def test_so_do_costs_that_no_machine_has(store: RunStore, change: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match=next(iter(change))):
        find_finished(written(store, "train", {"loss": 0.5}, **change))


def test_honest_figures_pass(store: RunStore) -> None:
    for kind, metrics in (("train", {"loss": 0.5, "steps": 20}), ("evaluate", evaluation()), ("rollout", rollout())):
        found = find_finished(written(store, kind, metrics))  # type: ignore[arg-type]
        assert found is not None
        assert found.metrics == metrics


@pytest.mark.parametrize(
    ("kind", "client", "number", "metrics", "words"),
    [
        ("evaluate", "kitchen", 1, evaluation(evaluation="quick"), "evaluation = 'quick', and it should be 'full'"),
        ("evaluate", "kitchen", 1, evaluation(episodes={"steps": [5] * 9}), "9 held-out episodes"),
        ("rollout", "bench", 1, rollout(episodes=5), "episodes = 5, and 4 were asked for"),
        ("evaluate", "kitchen", 1, evaluation(), ""),
        ("rollout", "bench", 1, rollout(), ""),
        ("train", "kitchen", 1, {"loss": 0.5}, ""),
    ],
)
def test_a_record_is_held_against_the_config(
    small_config: Callable[..., RunConfig], kind: TaskKind, client: str, number: int, metrics: Any, words: str
) -> None:
    config = small_config(evaluation__environments=[{"name": "bench", "type": "zk0_so101", "episodes": 4}])
    result = ClientResult(
        key="x", kind=kind, server_round=number, client=client, num_examples=1, metrics=metrics, duration_s=1.0,
        peak_rss_bytes=1, pid=1,
    )  # fmt: skip
    if not words:
        check_promised(result, config)
        return
    with pytest.raises(ClientError, match="its record says") as caught:
        check_promised(result, config)
    assert words in str(caught.value)
