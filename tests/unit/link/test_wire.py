"""What a client gets of a run's config: what its work needs, and nothing of the others."""

from pathlib import Path

import pytest

from tests.unit.runs.made import make_config
from zk0.config import RunConfig
from zk0.link.wire import digest_of_terms, terms

CLIENTS = [
    {"name": "left", "repo_id": "lab/left", "root": "/secret/left", "steps": 7},
    {"name": "right", "repo_id": "lab/right", "root": "/secret/right", "rename_map": {"x": "right-x"}},
]


def config(tmp_path: Path, **changes: object) -> RunConfig:
    return make_config(
        tmp_path / "outputs",
        clients=CLIENTS,
        evaluation={"datasets": [{"name": "attic", "repo_id": "lab/attic"}], "best_metric": "unseen_loss"},
        federation={
            "num_rounds": 4,
            "min_train_clients": 2,
            "strategy": "fedprox",
            "proximal_mu": 0.5,
            "may_miss": ["right"],
        },
        adaptive={"mu_step": 0.1},
        executor={"kind": "superlink", "link": "/secret/link", "timeout_s": 77},
        **changes,
    )


def test_nothing_of_the_others_or_of_the_coordinators_disk_is_in_it(tmp_path: Path) -> None:
    text = terms(config(tmp_path), "left").model_dump_json()
    for word in ("secret", "right", "attic", str(tmp_path)):
        assert word not in text


def test_the_work_is_the_same_by_them(tmp_path: Path) -> None:
    whole = config(tmp_path, training={"steps": 20, "lr": 1e-3}, seed=9)
    given = terms(whole, "left")
    for part in ("seed", "peft", "training", "data", "memory", "report", "checkpoint"):
        assert getattr(given, part) == getattr(whole, part)
    assert given.training_of("left") == whole.training_of("left")
    assert [given.is_full(number) for number in range(5)] == [whole.is_full(number) for number in range(5)]
    assert given.executor.timeout_s == 77


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_they_are_the_same_whatever_the_coordinators_machine_is(tmp_path: Path, device: str) -> None:
    there = terms(config(tmp_path, policy={"path": "lab/base", "device": device}), "left")
    assert there.digest == terms(config(tmp_path), "left").digest
    assert digest_of_terms(there) == digest_of_terms(terms(config(tmp_path), "left"))
