"""The benchmark that shows that federation helps: what follows from its figures, and its training, tiny."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.federation_value.benches import BENCHES, Bench
from benchmarks.federation_value.plan import Options, all_arms
from benchmarks.federation_value.verdict import Scores, Verdict, over_all
from zk0.metrics.success import Success
from zk0.sim import ZONES


def scores(*successes: int, episodes: int = 100) -> Scores:
    return {zone: Success(count, episodes) for zone, count in zip(ZONES, successes, strict=True)}


def verdict(federated: int, pooled: int, alone: int) -> Verdict:
    """Every zone alike, alone only in its own zone."""
    own = {zone: scores(*(4 * alone if other == zone else 0 for other in ZONES)) for zone in ZONES}
    return Verdict(own, pooled=scores(*4 * [pooled]), federated=scores(*4 * [federated]))


def test_the_claim_needs_both_halves() -> None:
    assert verdict(federated=81, pooled=90, alone=20).holds
    assert not verdict(federated=80, pooled=90, alone=20).holds  # 89 % of pooled
    near = verdict(federated=24, pooled=24, alone=20)  # 19.9 % to 28.4 % against 18.1 % to 22.0 %
    assert not near.beats(near.mean_alone())
    assert not near.holds
    assert verdict(federated=27, pooled=27, alone=20).holds
    assert "FAILS" in near.sentence()


def test_a_policy_that_has_learned_before_must_be_beaten_too() -> None:
    alone = {zone: scores(0, 0, 0, 0) for zone in ZONES}
    federated = scores(30, 30, 30, 30)
    for start, holds in ((15, True), (25, False)):  # 24.1 % to 31.7 % against 12.0 % to 18.8 %, and 21.0 % to 29.5 %
        found = Verdict(
            alone, pooled=scores(90, 90, 90, 90), federated=federated, round_0=scores(*4 * [start]), wanted_of_pooled=0
        )
        assert found.holds == holds
        assert f"{'beats' if holds else 'does not beat'} round-0" in found.sentence()
        assert "| round-0 |" in found.table()


def test_the_mean_of_the_clients_alone_counts_every_episode() -> None:
    found = verdict(federated=80, pooled=80, alone=10)
    assert over_all(found.mean_alone()) == Success(160, 1600)
    assert found.mean_alone()["left"] == Success(40, 400)


def test_the_table_has_every_way_and_figure() -> None:
    lines = verdict(federated=80, pooled=88, alone=10).table().splitlines()
    assert lines[0] == "| trained | far-left | left | right | far-right | all | 95 % interval |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        *(f"{zone} alone" for zone in ZONES), "mean of the clients alone", "federated", "pooled",
    ]  # fmt: skip
    assert lines[-2] == "| federated | 80% | 80% | 80% | 80% | 80.0% | 75.8% to 83.6% |"


def test_the_chart_is_a_picture() -> None:
    assert verdict(federated=80, pooled=88, alone=10).chart().startswith(b"\x89PNG")


@pytest.mark.parametrize("bench", BENCHES.values(), ids=BENCHES)
def test_every_way_has_the_budget_that_is_promised(bench: Bench) -> None:
    """Alone and each client of the federation take as many steps; pooled as many as those clients together."""
    arms = all_arms(bench.settings, with_round_0=False)
    budget = {arm.name: arm.steps_factor * len(arm.clients) for arm in arms}
    assert budget == {"federated": 4, "pooled": 4, **dict.fromkeys(bench.settings, 1)}
    everywhere = sorted(bench.settings)
    assert {arm.name: sorted(own for settings in arm.clients for own in settings) for arm in arms} == {
        "federated": everywhere, "pooled": everywhere, **{setting: [setting] for setting in bench.settings},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zones", pytest.param("rooms", marks=pytest.mark.exhaustive)])
def test_a_tiny_instance_trains_every_way(name: str, tmp_path: Path) -> None:
    pytest.importorskip("so101_nexus")
    import numpy as np

    from benchmarks.federation_value.arms import Federation, record_setting
    from zk0.files import atomic

    bench = BENCHES[name]
    options = Options(name, episodes=1, rounds=2, steps=2, batch_size=4, lr=1e-3, seeds=1, seed=1, work=tmp_path)
    for setting in bench.settings:
        record_setting(setting, options)
    trained, starts = {}, []
    arms = all_arms(bench.settings, bench.begins_trained)
    for arm in [*arms[:3], *(arm for arm in arms if not arm.clients)]:
        federation = Federation(arm, options)
        first = atomic.read_tensors(federation.store.path(federation.state.arrays))
        if arm.clients:
            federation.train()
            last = atomic.read_tensors(federation.store.path(federation.state.arrays))
            assert any(not np.array_equal(first[tensor], last[tensor]) for tensor in first)
        trained[arm.name] = federation
        starts.append(first)
    federated, pooled, alone, *_ = trained.values()
    for tensor, start in starts[0].items():  # every way begins with the same weights
        assert all(np.array_equal(start, other[tensor]) for other in starts)
    assert pooled.frames[0].num_frames == sum(len(frames) for frames in federated.frames)
    assert pooled.config.training.steps == 4 * alone.config.training.steps
    own = bench.config["data"]["normalization"] == "federated"
    assert _centre(federated) == _centre(pooled)
    assert (_centre(pooled) != _centre(alone)) == own  # the base's statistics are the same for all
    assert federated.success(bench.settings[1], 1).episodes == 1


def _centre(federation: Any) -> list[float]:
    """What the policy's joints are centred at."""
    steps = [step for step in federation.preprocessor.steps if hasattr(step, "norm_map")]
    found: list[float] = steps[0].state_dict()["observation.state.mean"].tolist()
    return found
