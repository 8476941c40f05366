"""The benchmark that shows that federation helps: what follows from its figures, and its training, tiny."""

import pytest

from benchmarks.federation_value.plan import Options, all_arms
from benchmarks.federation_value.verdict import Scores, Verdict, over_all
from zk0.closed_loop import Success
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
    assert not near.beats_alone()
    assert not near.holds
    assert verdict(federated=27, pooled=27, alone=20).holds
    assert "FAILS" in near.sentence()


def test_the_mean_of_the_clients_alone_counts_every_episode() -> None:
    found = verdict(federated=80, pooled=80, alone=10)
    assert over_all(found.mean_alone()) == Success(160, 1600)
    assert found.mean_alone()["left"] == Success(40, 400)


def test_the_table_has_every_way_and_figure() -> None:
    lines = verdict(federated=80, pooled=88, alone=10).table().splitlines()
    assert lines[0] == "| trained | far-left | left | right | far-right | all zones | 95 % interval |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        *(f"{zone} alone" for zone in ZONES), "mean of the clients alone", "federated", "pooled",
    ]  # fmt: skip
    assert lines[-2] == "| federated | 80% | 80% | 80% | 80% | 80.0% | 75.8% to 83.6% |"


def test_the_chart_is_a_picture() -> None:
    assert verdict(federated=80, pooled=88, alone=10).chart().startswith(b"\x89PNG")


def test_every_way_has_the_budget_that_is_promised() -> None:
    """Alone and each client of the federation take as many steps; pooled as many as those clients together."""
    budget = {arm.name: arm.steps_factor * len(arm.clients) for arm in all_arms()}
    assert budget == {"federated": 4, "pooled": 4, **dict.fromkeys(ZONES, 1)}
    assert {arm.name: sorted(zone for zones in arm.clients for zone in zones) for arm in all_arms()} == {
        "federated": sorted(ZONES), "pooled": sorted(ZONES), **{zone: [zone] for zone in ZONES},
    }  # fmt: skip


def test_a_tiny_instance_trains_every_way(tmp_path) -> None:
    pytest.importorskip("so101_nexus")
    import numpy as np

    from benchmarks.federation_value.arms import Federation, record_zone
    from zk0 import atomic

    options = Options(episodes=1, rounds=2, steps=2, batch_size=8, lr=1e-3, seeds=1, seed=1, work=tmp_path)
    for zone in ZONES:
        record_zone(zone, options)
    trained, starts = {}, []
    for arm in all_arms()[:3]:
        federation = Federation(arm, options)
        first = atomic.read_tensors(federation.store.path(federation.state.arrays))
        federation.train()
        last = atomic.read_tensors(federation.store.path(federation.state.arrays))
        assert any(not np.array_equal(first[name], last[name]) for name in first)
        trained[arm.name] = federation
        starts.append(first)
    federated, pooled, alone = (trained[name] for name in ("federated", "pooled", "far-left"))
    for name, start in starts[0].items():  # every way begins with the same weights
        assert all(np.array_equal(start, other[name]) for other in starts)
    assert pooled.frames[0].num_frames == sum(len(frames) for frames in federated.frames)
    assert pooled.config.training.steps == 4 * alone.config.training.steps
    assert _centre(federated) == _centre(pooled) != _centre(alone)
    assert federated.success("left", 1).episodes == 1


def _centre(federation) -> list[float]:
    """What the policy's inputs are centred at: the cube's position."""
    steps = [step for step in federation.preprocessor.steps if hasattr(step, "norm_map")]
    return steps[0].state_dict()["observation.environment_state.mean"].tolist()
