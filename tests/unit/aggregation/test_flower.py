"""What zk0 relies on in Flower beside its documented interface; stands beside the pin of flwr's minor version."""

import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any, NoReturn

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx
from flwr.supercore.task_identity import TaskIdentity

IDENTITY = ("_run_id", "_node_id", "_task_id")


class OnlyNodeIds(Grid):
    """A grid that can do nothing but name its nodes."""

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3]

    def _fail(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("the strategy asked the grid for more than node ids")

    set_run = create_message = push_messages = pull_messages = send_and_receive = _fail
    run = property(_fail)


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    before = [getattr(TaskIdentity, name) for name in IDENTITY]
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    yield
    for name, value in zip(IDENTITY, before, strict=True):
        setattr(TaskIdentity, name, value)


def instructions(strategy: FedAvg, server_round: int = 1) -> list[Message]:
    """What the strategy would send to three nodes."""
    record = ArrayRecord({"w": Array(np.zeros(1000, np.float32))})
    return list(strategy.configure_train(server_round, record, ConfigRecord(), OnlyNodeIds()))


def reply(message: Message) -> Message:
    """A node's update: depends on the node only."""
    node = message.metadata.dst_node_id
    update = np.random.default_rng(node).standard_normal(1000).astype(np.float32)
    metrics = MetricRecord({"num-examples": node * 7 + 1, "loss": 1.0 / node})
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(update)}), "metrics": metrics}), reply_to=message)


def test_the_pinned_minor_version() -> None:
    assert version("flwr").split(".")[:2] == ["1", "41"]


def test_a_message_needs_the_task_identity() -> None:
    code = "from flwr.app import Message, RecordDict; Message(RecordDict(), 1, 'train')"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RuntimeError: TaskIdentity.run_id is not set" in process.stderr
    Message(RecordDict(), 1, "train")


@pytest.mark.parametrize("strategy", [FedAvg(), FedProx(proximal_mu=0.5), FedAdam(), FedAvgM(server_momentum=0.9)])
def test_configure_train_asks_the_grid_for_node_ids_only(strategy: FedAvg) -> None:
    messages = instructions(strategy)
    assert sorted(message.metadata.dst_node_id for message in messages) == [1, 2, 3]
    config = messages[0].content.config_records["config"]
    assert config.get("proximal-mu") == (0.5 if isinstance(strategy, FedProx) else None)


def test_sampling_draws_from_the_global_generator() -> None:
    def sampled() -> list[int]:
        random.seed(3)
        return [message.metadata.dst_node_id for message in instructions(FedAvg(fraction_train=0.7))]

    assert sampled() == sampled()
    assert len(sampled()) == 2


def test_the_order_of_replies_changes_the_sum_and_sorting_mends_it() -> None:
    strategy = FedAvg()
    replies = sorted((reply(message) for message in instructions(strategy)), key=lambda one: one.metadata.src_node_id)

    def digest(given: list[Message]) -> bytes:
        record, _ = strategy.aggregate_train(1, given)
        assert record is not None
        return record["w"].numpy().tobytes()

    assert len({digest(random.Random(seed).sample(replies, 3)) for seed in range(8)}) > 1
    shuffled = [random.Random(seed).sample(replies, 3) for seed in range(8)]
    assert len({digest(sorted(given, key=lambda one: one.metadata.src_node_id)) for given in shuffled}) == 1


def test_failed_replies_are_dropped_and_none_left_is_none() -> None:
    strategy = FedAvg()
    messages = instructions(strategy)
    errors = [Message(Error(2, "out of memory"), reply_to=message) for message in messages]
    assert strategy.aggregate_train(1, errors) == (None, None)
    record, metrics = strategy.aggregate_train(1, [reply(messages[0]), *errors[1:]])
    assert record is not None
    assert metrics is not None
    np.testing.assert_array_equal(record["w"].numpy(), reply(messages[0]).content.array_records["arrays"]["w"].numpy())


def test_fedadam_gives_float64() -> None:
    strategy = FedAdam()
    record, _ = strategy.aggregate_train(1, [reply(message) for message in instructions(strategy)])
    assert record is not None
    assert record["w"].dtype == "float64"  # why zk0 casts back
