"""Flower's SecAgg+ over an update of a LoRA's size: `python -m benchmarks.secure_aggregation`.

Flower's own workflow and client mod, with four clients in this process and nothing between them but the messages. It
shows what came of the average, what a client costs that goes away in each of the four stages, what a second asking
costs (as after a server was killed), and what a single client can do whose update nobody sees.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.server import LegacyContext, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid
from numpy.typing import NDArray

from zk0.aggregation.flower import ensure_task_identity

STAGES = ("setup", "share_keys", "collect_masked_vectors", "unmask")
STAGE = "stage"
Tensors = list[NDArray[np.float32]]


@dataclasses.dataclass
class Party:
    """One client: what its fit gives, and what becomes of it."""

    update: Tensors
    examples: int = 280
    dies_in: str = ""
    asked_twice_in: str = ""
    seed: int | None = None
    """Of the rounding to whole numbers, which draws from numpy's global generator."""
    fits: int = 0


class KilledError(Exception):
    """The server is gone."""


class LocalGrid(Grid):
    """Four nodes of this process; one that is dead answers by Flower's error, as a lost node does."""

    def __init__(self, parties: Sequence[Party], killed_in: str = "") -> None:
        ensure_task_identity()
        self.parties = dict(enumerate(parties, start=1))
        self.contexts = {node: _context(node) for node in self.parties}
        self.dead: set[int] = set()
        self.killed_in = killed_in
        self.bytes_up = 0
        self.refused: list[str] = []
        self._apps = {node: _app(party) for node, party in self.parties.items()}

    def get_node_ids(self) -> Iterable[int]:
        """1..N."""
        return self.parties

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """What every node answers."""
        del timeout
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        stage = str(message.content.config_records["secaggplus_configs"][STAGE]) if _has(message) else ""
        if self.killed_in == stage:
            raise KilledError
        if self.parties[node].dies_in == stage:
            self.dead.add(node)
        if node in self.dead:
            return Message(Error(code=5, reason="gone"), reply_to=message)
        try:
            for _ in range(1 + (self.parties[node].asked_twice_in == stage)):
                again = Message(_copied(message.content), node, message.metadata.message_type)
                answer = self._apps[node](again, self.contexts[node])
        except Exception as error:  # noqa: BLE001 - as Flower does with whatever a ClientApp raises
            cause = error.__cause__ or error
            self.refused.append(f"{type(cause).__name__}: {cause}")
            return Message(Error(code=2, reason=str(error)), reply_to=message)
        self.bytes_up += sum(
            len(part) if isinstance(part, bytes) else 8
            for record in answer.content.config_records.values()
            for value in record.values()
            for part in (value if isinstance(value, list) else [value])
        )
        return Message(answer.content, reply_to=message)

    def _unused(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("SecAgg+ sends and waits")

    set_run = create_message = push_messages = pull_messages = _unused
    run = property(_unused)


class Proxy(ClientProxy):
    """A node, for the strategy of Flower's old interface: SecAgg+ has no other."""

    def __init__(self, node: int) -> None:
        super().__init__(str(node))
        self.node_id = node

    def _unused(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("SecAgg+ sends messages itself")

    get_properties = get_parameters = fit = evaluate = reconnect = _unused


class Seen(FedAvg):
    """FedAvg that keeps what it was given: all that an admission could look at."""

    def __init__(self) -> None:
        super().__init__(min_fit_clients=2, min_available_clients=2, fraction_evaluate=0.0)
        self.given: list[str] = []

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Each client's result as the server has it."""
        self.given = [hashlib.sha256(b"".join(result.parameters.tensors)).hexdigest() for _, result in results]
        return super().aggregate_fit(server_round, results, failures)


@dataclasses.dataclass
class Round:
    """What came of one round."""

    average: Tensors | None
    given: list[str]
    grid: LocalGrid
    seconds: float


def secure_round(base: Tensors, parties: Sequence[Party], grid: LocalGrid | None = None) -> Round:
    """One round of SecAgg+, with as many shares as clients, of which half are enough.

    Args:
        base: the global tensors.
        parties: the clients.
        grid: that was there before, with what its nodes keep.
    """
    grid, manager, strategy = grid or LocalGrid(parties), SimpleClientManager(), Seen()
    for node in grid.parties:
        manager.register(Proxy(node))
    context = LegacyContext(_context(0), strategy=strategy, client_manager=manager)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = before = ArrayRecord(list(base))
    began = time.perf_counter()
    SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.5)(grid, context)
    after = context.state.array_records[MAIN_PARAMS_RECORD]
    average = None if after is before else after.to_numpy_ndarrays()
    return Round(average, strategy.given, grid, time.perf_counter() - began)


def plain(parties: Sequence[Party]) -> list[NDArray[np.float64]]:
    """The average with weights by examples, in float64."""
    shares = [party.examples / sum(other.examples for other in parties) for party in parties]
    same = zip(*(party.update for party in parties), strict=True)
    return [
        np.sum([a.astype(np.float64) * share for a, share in zip(of_each, shares, strict=True)], 0) for of_each in same
    ]


def off(found: Sequence[NDArray[Any]], ideal: Sequence[NDArray[Any]], base: Tensors) -> float:
    """Norm of the error over that of the round's change."""
    error = sum(float(np.sum((np.asarray(a, np.float64) - b) ** 2)) for a, b in zip(found, ideal, strict=True))
    change = sum(float(np.sum((b - c) ** 2)) for b, c in zip(ideal, base, strict=True))
    return float(np.sqrt(error / change))


def lora(megabytes: float, seed: int) -> Tensors:
    """Factors of rank 16 as a trained adapter has them: A of some hundredths, B of thousandths."""
    generator, pairs = np.random.default_rng(seed), max(1, round(megabytes * 2**20 / 4 / (2 * 16 * 720)))
    shapes = [(shape, scale) for _ in range(pairs) for shape, scale in (((16, 720), 0.03), ((720, 16), 0.003))]
    return [generator.normal(0, scale, shape).astype(np.float32) for shape, scale in shapes]


def parties_of(base: Tensors, **changes: Any) -> list[Party]:
    """Four clients, each some ten-thousandths away from the base, as after one round."""
    return [
        Party(
            [
                tensor + np.random.default_rng([client, number]).normal(0, 3e-4, tensor.shape).astype(np.float32)
                for number, tensor in enumerate(base)
            ],
            **changes,
        )
        for client in range(4)
    ]


def measure(megabytes: float) -> dict[str, Any]:
    """Everything that the command shows."""
    base = lora(megabytes, 0)
    honest = parties_of(base)
    came = secure_round(base, honest)
    assert came.average is not None
    return {
        "MB": megabytes,
        "seconds": came.seconds,
        "bytes up, of an update's": came.grid.bytes_up / 4 / sum(tensor.nbytes for tensor in base),
        "error, of the change": off(came.average, plain(honest), base),
        "dtype of the average": str(came.average[0].dtype),
        "results that the server can tell apart": len(set(came.given)),
        "same bytes when done again": _same(came, secure_round(base, parties_of(base))),
        "same bytes when done again, rounding seeded": _same(
            *(secure_round(base, parties_of(base, seed=7)) for _ in range(2))
        ),
        **departures(base),
        **second_askings(base),
        "hostile client moves the average by, of the base's norm": hostile(base),
    }


def departures(base: Tensors) -> dict[str, str]:
    """What it costs that clients go away."""
    found = {}
    for many in (1, 2):
        for stage in STAGES:
            some = parties_of(base)
            for party in some[4 - many :]:
                party.dies_in = stage
            found[f"{many} of four gone in {stage}"] = _error(secure_round(base, some), some, 4 - many, base)
    return found


def second_askings(base: Tensors) -> dict[str, str]:
    """What it costs that a question is asked again, as after a lost answer or a killed server."""
    found = {}
    for stage in STAGES:
        some = parties_of(base)
        some[3].asked_twice_in = stage
        came = secure_round(base, some)
        why = came.grid.refused[-1] if came.grid.refused else "nothing"
        found[f"one asked twice in {stage}"] = f"{why}; {_error(came, some, 3, base)}"
    some = parties_of(base)
    grid = LocalGrid(some, killed_in="unmask")
    with contextlib.suppress(KilledError):
        secure_round(base, some, grid)
    grid.killed_in = ""
    said = _error(secure_round(base, some, grid), some, 4, base)
    found["server killed before unmask and begun again"] = f"{sum(party.fits for party in some)} fits of four; {said}"
    return found


def hostile(base: Tensors) -> float:
    """How far one of four clients moves the average at the bounds of the quantisation, of the base's norm."""
    some = parties_of(base)
    some[3].update = [np.where(tensor > 0, 8, -8).astype(np.float32) for tensor in base]
    came = secure_round(base, some)
    assert came.average is not None
    moved = sum(float(np.sum((a - b) ** 2)) for a, b in zip(came.average, base, strict=True))
    return math.sqrt(moved / sum(float(np.sum(np.square(tensor, dtype=np.float64))) for tensor in base))


def _same(one: Round, other: Round) -> bool:
    assert one.average is not None
    assert other.average is not None
    return all(np.array_equal(a, b) for a, b in zip(one.average, other.average, strict=True))


def _error(came: Round, everybody: Sequence[Party], left: int, base: Tensors) -> str:
    """The error against those who are left; or against all, where those who went are still in it."""
    if came.average is None:
        return "round lost"
    errors = {
        name: off(came.average, plain(some), base) for name, some in (("left", everybody[:left]), ("all", everybody))
    }
    name = "all" if left == len(everybody) else min(errors, key=lambda item: errors[item])
    return f"the average of {name}, off by {errors[name]:.2g} of the change"


def _app(party: Party) -> ClientApp:
    class Learner(NumPyClient):
        def fit(self, parameters: Any, config: Any) -> tuple[Any, int, dict[str, Any]]:
            del parameters, config
            party.fits += 1
            if party.seed is not None:
                np.random.seed(party.seed)  # noqa: NPY002 - the one that Flower draws from
            return list(party.update), party.examples, {"loss": 0.5}

    def made(_: Context) -> Client:
        return Learner().to_client()

    return ClientApp(client_fn=made, mods=[secaggplus_mod])


def _context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def _has(message: Message) -> bool:
    return "secaggplus_configs" in message.content.config_records


def _copied(content: RecordDict) -> RecordDict:
    """As a message that came over the network: the mod takes keys out of what it is given."""
    copied = RecordDict(dict(content))
    for name, record in content.config_records.items():
        copied[name] = ConfigRecord(dict(record))
    return copied


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Print what was measured, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=3.0, help="of one update")
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    say(json.dumps(measure(parser.parse_args(arguments).megabytes), indent=2))


if __name__ == "__main__":
    main()
