"""The ServerApp of `flwr run`: the loop of `zk0.run`, whose clients' work is asked for through Flower's grid.

What Flower stops or kills is gone on with by the next `flwr run` of the same config, which finds the unfinished run as
`zk0 run` does.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from loguru import logger

from zk0.config import SUPERLINK, RunConfig
from zk0.errors import PassingError
from zk0.executors.side_by_side import Watch, nobody
from zk0.federation import before_run
from zk0.federation.alone import run_alone
from zk0.federation.steps import Steps
from zk0.flower.carried import carried, with_link
from zk0.flower.in_place import InPlaceExecutor
from zk0.flower.nodes import LockedGrid, Nodes
from zk0.flower.settings import Start, wanted
from zk0.logs.setup import add_sink
from zk0.preflight.records import Preflight
from zk0.runs.store import RunStore
from zk0.work.executor import Executor

if TYPE_CHECKING:
    from loguru import Message as LogMessage

JOIN_S = 120.0
"""So long a start waits for nodes that are not there yet; a SuperNode that was just started comes after about 20 s."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the federation that the run config asks for."""
    start = wanted(context.run_config)
    grid = LockedGrid(grid)
    nodes = Nodes(grid, [client.name for client in start.config.clients])
    if start.config.executor.kind == SUPERLINK:
        config = with_link(start.config)
        with carried(config, grid, nodes, context.run_id):
            _train(start, config, nodes, lambda _: None)
    else:
        _train(start, start.config, nodes, lambda store: InPlaceExecutor(store.config, nodes))


def _train(start: Start, config: RunConfig, nodes: Nodes, executor: Callable[[RunStore], Executor | None]) -> None:
    def check(config: RunConfig, watch: Watch = nobody) -> Preflight:
        wait_for(nodes, config)
        return before_run.check(config, watch)

    def steps(store: RunStore) -> Steps:
        add_sink(_tell)
        logger.info("run {}: {}", store.info.name, store.folder)
        return Steps(store, executor(store))

    run_alone(config, start.name, start.stem, strict=start.strict, check=check, make_steps=steps)


def wait_for(nodes: Nodes, config: RunConfig) -> None:
    """See that nodes are there for as many clients as a round needs, and name the others.

    Raises:
        PassingError: there are too few.
    """
    lacking = nodes.wait(JOIN_S)
    there = len(config.clients) - len(lacking)
    if there < config.federation.min_train_clients:
        raise PassingError(
            f"{there} of {len(config.clients)} clients have a node after {JOIN_S:.0f} s (not {', '.join(lacking)}) and "
            f"federation.min_train_clients = {config.federation.min_train_clients}; start their SuperNodes, then this "
            "command again"
        )
    if lacking:
        logger.warning("no node for {}: the run goes on without", ", ".join(lacking))


def _tell(message: "LogMessage") -> None:
    """Say in `flwr log` what else only run.log has; warnings are there already."""
    if message.record["level"].no < logger.level("WARNING").no:
        sys.stdout.write(f"{message.record['time']:HH:mm:ss} {message}")
