"""Whether a result is what the config asks for: its evaluation full or quick, over no more episodes than there are."""

from collections.abc import Iterator

from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.work.records import ClientResult

FULL, QUICK = "full", "quick"


def check_promised(result: ClientResult, config: RunConfig) -> None:
    """Hold a result, whose figures are such by themselves, against the config.

    Raises:
        ClientError: bad_data; names the figure.
    """
    if fault := next(_faults(result, config), None):
        raise ClientError(
            "bad_data", f"{result.kind} of {result.client!r}, round {result.server_round}: its record says {fault}"
        )


def _faults(result: ClientResult, config: RunConfig) -> Iterator[str]:
    metrics = result.metrics
    if result.kind == "evaluate":
        asked = FULL if config.is_full(result.server_round) else QUICK
        if metrics.get("evaluation") != asked:
            yield f"evaluation = {metrics.get('evaluation')!r}, and it should be {asked!r}"
        if config.evaluation.full_every != 1 and (QUICK in metrics) != (asked == FULL):
            yield f"{'more' if QUICK in metrics else 'less'} than a {asked} evaluation"
        held_out = config.evaluation.holdout_episodes
        if any(client.name == result.client for client in config.clients):
            for part in (metrics, metrics.get(QUICK) or {}):
                if (count := len(part.get("episodes", {}).get("steps", ()))) > held_out:
                    yield f"{count} held-out episodes, and evaluation.holdout_episodes = {held_out}"
    if result.kind == "rollout":
        episodes = next((item.episodes for item in config.evaluation.environments if item.name == result.client), None)
        if metrics["episodes"] != episodes:
            yield f"episodes = {metrics['episodes']}, and {episodes} were asked for"
