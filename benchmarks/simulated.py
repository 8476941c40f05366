"""A round of clients that learn nothing in Flower's simulation engine: what null rounds of zk0 are held against.

`uv run python -m benchmarks.simulated --mb 10 --clients 4` prints JSON. Flower's own FedAvg sends the model to each
client for training and for evaluation, by Ray, and keeps nothing on disk. The first round, in which Ray's actors
import, does not count.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.null_work import TENSORS

client = ClientApp()


@client.train()
def train(message: Message, _: Context) -> Message:
    """A small change of what came."""
    arrays = message.content.array_records["arrays"]
    changed = ArrayRecord({name: Array(value.numpy() + np.float32(1e-3)) for name, value in arrays.items()})
    metrics = MetricRecord({"num-examples": 10, "loss": 1.0})
    return Message(RecordDict({"arrays": changed, "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, _: Context) -> Message:
    """A figure."""
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 10, "loss": 1.0})}), reply_to=message)


def rounds(clients: int, mb: float, count: int) -> list[float]:
    """Seconds of each round but the first."""
    marks: list[float] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, _: Context) -> None:
        values = int(mb * 1e6 / 4 / TENSORS)
        first = ArrayRecord({f"layer.{number:02}": Array(np.zeros(values, np.float32)) for number in range(TENSORS)})
        strategy = FedAvg(min_train_nodes=clients, min_evaluate_nodes=clients, min_available_nodes=clients)
        strategy.start(grid, first, count, evaluate_fn=lambda *_: marks.append(time.perf_counter()))

    run_simulation(server, client, clients, backend_config={"client_resources": {"num_cpus": 1}})
    return [after - before for before, after in itertools.pairwise(marks[1:])]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--mb", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    took = rounds(options.clients, options.mb, options.rounds)
    print(
        json.dumps({"clients": options.clients, "mb": options.mb, "round_s": statistics.median(took), "rounds": took})
    )


if __name__ == "__main__":
    main()
