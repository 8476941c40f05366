"""The door of a round: what is far beyond the usual is refused or clipped, and nobody honest is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.aggregation.made import (
    NAMES,
    all_honest,
    honest,
    make_config,
    moved,
    norm,
    one_round,
    result,
    start,
)
from zk0.aggregation.admission import KEPT_ROUNDS, History, judge
from zk0.aggregation.server_round import Aggregate, ServerRound
from zk0.config import AdmissionConfig
from zk0.errors import DivergedError, QuorumError
from zk0.files import atomic


def refused(outcome: Aggregate) -> dict[str, str]:
    return {failure.client: failure.message for failure in outcome.failures}


def same(one: Aggregate, other: Aggregate) -> bool:
    return all(one.tensors[name].tobytes() == other.tensors[name].tobytes() for name in one.tensors)


def test_who_is_far_beyond_the_usual_is_refused_and_costs_the_others_nothing(tmp_path: Path) -> None:
    updates = all_honest()
    others = {name: update for name, update in updates.items() if name != "study"}
    expected = one_round(make_config(), tmp_path, others)
    for factor in (14.0, 100.0, 1e20, -1e20):
        outcome = one_round(make_config(), tmp_path, {**updates, "study": moved(updates["study"], factor)})
        assert same(outcome, expected), factor
        (failure,) = outcome.failures
        assert (failure.client, failure.cause, failure.kind) == ("study", "bad_data", "train")
        assert "client 'study', round 1: its change has the norm" in failure.message
        assert "federation.admission.max_norm_ratio = 10" in failure.message
    assert refused(one_round(make_config(), tmp_path, {**updates, "study": moved(updates["study"], 8)})) == {}


def test_the_norms_are_those_of_the_changes(tmp_path: Path) -> None:
    outcome = one_round(make_config(), tmp_path, updates := all_honest())
    assert outcome.admission == {"norms": {name: pytest.approx(norm(update)) for name, update in updates.items()}}
    assert outcome.history.record()["norms"] == [[pytest.approx(norm(update)) for update in updates.values()]]


def test_without_the_bound_it_is_taken_as_it_is(tmp_path: Path) -> None:
    updates = all_honest() | {"study": moved(honest(3), 1e4)}
    config = make_config(admission={"max_norm_ratio": 0})
    assert refused(one_round(config, tmp_path, updates)) == {}


def test_a_largest_norm_holds_whatever_the_others_do(tmp_path: Path) -> None:
    updates = all_honest()
    config = make_config(admission={"max_norm": 1.01 * sorted(map(norm, updates.values()))[-2]})
    (name,) = refused(one_round(config, tmp_path, updates))
    assert name == max(updates, key=lambda client: norm(updates[client]))
    assert "federation.admission.max_norm = " in refused(one_round(config, tmp_path, updates))[name]


def test_clipping_scales_a_change_down_to_the_bound_and_leaves_the_others_alone(tmp_path: Path) -> None:
    updates = all_honest()
    usual = float(np.median([norm(update) for name, update in updates.items() if name != "study"]))
    outcome = one_round(
        make_config(admission={"action": "clip"}), tmp_path, {**updates, "study": moved(updates["study"], 1000)}
    )
    assert outcome.failures == []
    assert outcome.admission["scaled"] == {
        "study": pytest.approx(10 * usual / (1000 * norm(updates["study"])), rel=1e-4)
    }
    fitting = moved(updates["study"], 10 * usual / norm(updates["study"]))
    expected = one_round(make_config(admission={"max_norm_ratio": 0}), tmp_path, {**updates, "study": fitting})
    np.testing.assert_allclose(outcome.tensors["b"], expected.tensors["b"], rtol=2e-6)
    untouched = one_round(make_config(admission={"action": "clip"}), tmp_path, updates)
    assert same(untouched, one_round(make_config(admission={"max_norm_ratio": 0}), tmp_path, updates))


def test_the_rounds_before_are_compared_with_too(tmp_path: Path) -> None:
    """Of two, the first round cannot tell who is odd; the second can."""
    config = make_config(2)
    honest_two = all_honest(2)
    first = one_round(config, tmp_path, {**honest_two, "workshop": moved(honest_two["workshop"], 100)})
    assert refused(first) == {}
    before = one_round(config, tmp_path, honest_two)
    second = {**all_honest(2, 2), "workshop": moved(honest(1, 1.0, 2), 100)}
    assert list(refused(one_round(config, tmp_path, second, before, 2))) == ["workshop"]
    alone = {"workshop": moved(honest(1, 1.0, 2), 100)}
    with pytest.raises(QuorumError, match="times the usual"):
        one_round(config, tmp_path, alone, before, 2)


def test_an_honest_client_is_not_refused_because_others_send_nothing() -> None:
    """Others who are stuck, or send old tensors again, silence nobody; nor does a rate that rises after a warm-up."""
    admission = AdmissionConfig()
    for norms, before in (
        ({"a": 1.0, "b": 0.0}, History()),
        ({"a": 1.0, "b": 0.0}, History([[1.0, 0.0], [0.9, 0.0]])),
        ({"a": 1.0, "b": 1.1, "c": 0.0}, History()),
        ({"a": 50.0, "b": 40.0, "c": 45.0}, History([[0.1, 0.2, 0.1]])),
        ({"a": 0.001, "b": 0.001, "c": 0.002}, History([[1.0, 2.0, 1.0]])),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, History([[0.0, 0.0]])),
        ({"a": 1.0}, History()),
    ):
        assert judge(norms, before, admission).refused == {}, norms


def test_a_run_of_one_client_has_nothing_to_compare_with(tmp_path: Path) -> None:
    config = make_config(1)
    first = one_round(config, tmp_path, all_honest(1))
    second = one_round(config, tmp_path, {"kitchen": moved(honest(0), 1000)}, first, 2)
    assert refused(second) == {}
    with pytest.raises(QuorumError, match="not finite"):
        one_round(config, tmp_path, {"kitchen": {**start(), "a": np.full((6, 5), np.nan, np.float32)}}, first, 2)


def test_what_is_remembered_is_bounded_and_the_same_after_json(tmp_path: Path) -> None:
    history = History()
    for number in range(40):
        history = history.after({"a": float(number)}, {"b": f"round {number}"})
    atomic.write_json(tmp_path / "history.json", history.record())
    again = History.of(atomic.read_json(tmp_path / "history.json"))
    assert again.record() == history.record()
    assert len(history.norms) == KEPT_ROUNDS
    assert history.refused["b"][-1] == "round 39"
    assert len(history.refused["b"]) == 30
    assert history.after({"b": 1.0}, {}).refused == {}
    assert history.after({"a": 1.0}, {}).refused.keys() == {"b"}, "who sends nothing keeps what is held against it"


def test_other_examples_than_were_counted_are_refused(tmp_path: Path) -> None:
    atomic.write_tensors(tmp_path / "global.safetensors", start())
    updates = all_honest()
    results = [result(tmp_path, name, update) for name, update in updates.items()]
    results[2] = result(tmp_path, NAMES[2], updates[NAMES[2]], num_examples=10**15)
    attempt = ServerRound(make_config(), 1, tmp_path / "global.safetensors", examples=dict.fromkeys(NAMES, 100))
    outcome = attempt.aggregate(results, tmp_path)
    assert refused(outcome) == {
        NAMES[2]: f"client {NAMES[2]!r}, round 1: num_examples = 1000000000000000, and 100 were counted before the run"
    }


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"strategy": "fedavgm", "server_learning_rate": 1e38}, "tensor 'a'"),
        ({"strategy": "fedadam", "eta": 1e300}, "tensor 'a'"),
    ],
)
def test_what_is_not_finite_is_an_error_and_no_round(tmp_path: Path, keys: dict[str, Any], what: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match="nothing is committed") as caught:
        one_round(make_config(**keys), tmp_path, {name: moved(update, 9e2) for name, update in all_honest().items()})
    assert what in str(caught.value)
    assert caught.value.exit_code == 3


def test_strategies_with_a_state_stay_finite_whatever_one_client_sends(tmp_path: Path) -> None:
    for strategy in ("fedavgm", "fedadam", "fedyogi"):
        updates = all_honest() | {"study": moved(honest(3), 1e25)}
        outcome = one_round(make_config(strategy=strategy), tmp_path, updates)
        assert list(refused(outcome)) == ["study"]
        assert all(np.isfinite(value).all() for value in outcome.strategy_tensors.values())
