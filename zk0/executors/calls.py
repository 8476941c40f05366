"""What the light orchestrator asks of a process that has torch: each a function for `ProcessExecutor.call`."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from zk0.config import DatasetConfig, RunConfig
from zk0.data.findings import DataFinding
from zk0.executors.call import of_input
from zk0.executors.worker import die_first, quiet
from zk0.files import atomic
from zk0.metrics.success import Success
from zk0.preflight.records import Described, Examined, Leaf, Preflight
from zk0.work.records import ClientTask


@of_input
def settle(config: RunConfig) -> RunConfig:
    """`checks.settle` in a worker process, and the files of the policy: what is wrong with them is said before all."""
    die_first()
    quiet()
    from zk0.preflight import checks, fetch

    settled = checks.settle(config)
    fetch.fetch_policy(settled)
    return settled


@of_input
def ready(config: RunConfig, fix_to: Path | None) -> RunConfig:
    """`checks.ready` in a worker process."""
    die_first()
    quiet()
    from zk0.preflight import checks

    return checks.ready(config, fix_to)


@of_input
def examine(config: RunConfig, dataset: DatasetConfig, every_frame: bool, fresh: bool, note: Path) -> Examined:
    """`datasets.examine` in a worker process, which leaves a word of what it is at in the file `note`."""
    die_first()
    quiet()
    from zk0.preflight.datasets import examine

    def say(text: str) -> None:
        with suppress(OSError):
            note.write_text(text, encoding="utf-8", errors="replace")

    return examine(config, dataset, every_frame=every_frame, fresh=fresh, say=say)


@of_input
def preflight(config: RunConfig, in_container: bool = False, examined: list[Examined] | None = None) -> Preflight:
    """`preflight.preflight` in a worker process.

    Args:
        config: the wanted config.
        in_container: whether fits will be in containers, whose memory is bounded.
        examined: what `examine` found in its datasets.
    """
    die_first()
    quiet()
    from zk0.preflight import checks

    return checks.preflight(config, examined, in_container=in_container)


@of_input
def digests(config: RunConfig) -> dict[str, dict[str, str]]:
    """`datasets.files_of` in a worker process."""
    die_first()
    quiet()
    from zk0.preflight.datasets import files_of

    return files_of(config)


@of_input
def describe(found: Preflight) -> Described:
    """`described.describe` in a worker process: what a node says of its client, whose checks have passed."""
    quiet()
    from zk0.preflight import described

    return described.describe(found)


@of_input
def preflight_over_link(config: RunConfig, examined: list[Examined]) -> Preflight:
    """`described.preflight` in a worker process: the coordinator's own part of the checks."""
    die_first()
    quiet()
    from zk0.preflight import described

    return described.preflight(config, examined)


@of_input
def try_policy(config: RunConfig) -> list[DataFinding]:
    """`checks.try_policy` in a worker process, for what it refuses and warns of."""
    die_first()
    quiet()
    from zk0.preflight import checks

    return checks.try_policy(config).findings()


@of_input
def leaves(config: RunConfig) -> list[Leaf]:
    """`preflight.leaves` in a worker process."""
    die_first()
    quiet()
    from zk0.preflight import leaves as preflight

    return preflight.leaves(config)


@of_input
def check_environments(config: RunConfig) -> None:
    """`preflight.check_environments` in a worker process, whose memory a simulator does not spoil for `preflight`."""
    die_first()
    quiet()
    from zk0.preflight import checks

    checks.check_environments(config)


@of_input
def fetch(config: RunConfig) -> None:
    """`fetch.fetch` in a worker process."""
    quiet()
    from zk0.preflight import fetch

    fetch.fetch(config)


def aggregate_statistics(files: list[str]) -> dict[str, NDArray[Any]]:
    """LeRobot's `aggregate_stats` over the clients' statistics files, in a worker process; in and out flat tensors."""
    from zk0.data.statistics import aggregate_clients, flatten_stats, unflatten_stats

    return flatten_stats(aggregate_clients([unflatten_stats(atomic.read_tensors(Path(file))) for file in files]))


def intervals(
    base: dict[str, Any] | None,
    now: dict[str, Any],
    clients: list[str],
    bootstrap_seed: int,
    success: Success | None = None,
) -> dict[str, Any]:
    """`intervals.of_round`, and success over all environments, in a worker: scipy would stay in the orchestrator."""
    from zk0.metrics import intervals

    found = intervals.of_round(base, now, clients, bootstrap_seed)
    if success is not None:
        found["interval_95"] |= success.figures()["interval_95"]
    return found


def save_policy(payload: str, folder: str, merge: bool, own: bool) -> None:
    """`client.export.save_policy` in a worker process; `payload` is a ClientTask as JSON."""
    quiet()
    from zk0.client import export
    from zk0.client.inputs import read_config

    task = ClientTask.model_validate_json(payload)
    export.save_policy(task, read_config(Path(task.run_dir)), Path(folder), merge=merge, own=own)
