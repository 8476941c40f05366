"""A round's updates as Flower's replies, in config order, which the float sums depend on."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from zk0.aggregation.flower import WEIGHT_KEY, lazy_record, scaled_record
from zk0.config import FederationConfig
from zk0.work.records import ClientFailure, ClientResult


def update_record(result: ClientResult, run_dir: Path, arrays: Path, scale: float) -> ArrayRecord:
    """What a client sent, as it is aggregated; lazily read.

    Args:
        result: of the client; `check_update` has seen it.
        run_dir: the run directory.
        arrays: safetensors file of the global tensors.
        scale: what its change is multiplied by.
    """
    assert result.tensors is not None
    return scaled_record(lazy_record(run_dir / result.tensors.path), lazy_record(arrays, follow=True), scale)


def replies(
    messages: Mapping[str, Message],
    records: Mapping[str, ArrayRecord],
    metrics: Mapping[str, Mapping[str, float]],
    failed: Mapping[str, ClientFailure],
) -> list[Message]:
    """The replies of all clients that were asked.

    Args:
        messages: client -> what it was asked.
        records: client -> its update.
        metrics: client -> its weight and metrics, the same keys with all.
        failed: the others.
    """
    made = []
    for client, message in messages.items():
        content: RecordDict | Error
        if client in records:
            content = RecordDict({"arrays": records[client], "metrics": MetricRecord(dict(metrics[client]))})
        elif client in failed:
            content = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, failed[client].message)
        else:
            continue
        made.append(Message(content, reply_to=message))
    return made


def reply_metrics(results: Mapping[str, ClientResult], federation: FederationConfig) -> dict[str, dict[str, float]]:
    """Client -> its weight, and those metrics that are plain floats with every client: Flower wants the same keys."""
    keys = _common(list(results.values()))
    return {
        client: {WEIGHT_KEY: weight_of(result, federation), **{key: float(result.metrics[key]) for key in keys}}
        for client, result in results.items()
    }


def _common(results: Sequence[ClientResult]) -> list[str]:
    keys = [_floats(result) for result in results]
    return sorted(set.intersection(*keys) - {WEIGHT_KEY})


def _floats(result: ClientResult) -> set[str]:
    return {key for key, value in result.metrics.items() if isinstance(value, float)}


def weight_of(result: ClientResult, federation: FederationConfig) -> int:
    """What a client counts in the average."""
    return result.num_examples if federation.weighting == "examples" else 1


def weights_of(results: Iterable[ClientResult], federation: FederationConfig) -> list[float]:
    """The same of several, as shares."""
    counts = [weight_of(result, federation) for result in results]
    return [count / sum(counts) for count in counts]
