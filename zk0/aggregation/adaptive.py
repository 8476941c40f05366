"""Schedules that act on the figures of the rounds before: the learning rate, each client's steps, and FedProx's mu.

Each is a pure function of the committed rounds, gone through from the first one whenever it is asked: a run that was
killed decides the same as one that was not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from zk0.config import AdaptiveConfig, RunConfig
from zk0.metrics import units
from zk0.metrics.scores import METRICS, Metric, best, dataset_names, scores
from zk0.metrics.values import Json, mapping

THRESHOLD = 1e-4
"""Share by which a metric must be better to count as such: the default of torch's ReduceLROnPlateau."""


@dataclass(frozen=True)
class Decision:
    """What the schedules say for one round."""

    lr_scale: float
    """What the learning rate of every client is multiplied by."""
    proximal_mu: float
    """FedProx's mu."""
    steps: Mapping[str, int]
    """Client -> local steps."""
    changes: list[str] = field(default_factory=list)
    """What is otherwise than in the round before, and why; one line each."""

    def record(self) -> dict[str, Any]:
        """Plain data, for metrics.json."""
        return {
            "lr_scale": self.lr_scale,
            "proximal_mu": self.proximal_mu,
            "steps": dict(self.steps),
            "changes": self.changes,
        }


def active(adaptive: AdaptiveConfig) -> bool:
    """Whether any schedule is on."""
    return adaptive.plateau_patience is not None or adaptive.boost_max > 1 or adaptive.mu_step is not None


def decide(config: RunConfig, rounds: Sequence[Json], server_round: int) -> Decision:
    """What the schedules say for a round.

    Args:
        config: the run's.
        rounds: lines of metrics.jsonl, by server_round; only those before the round are looked at.
        server_round: the round that is to be trained, from 1.
    """
    before = [line for line in rounds if line["server_round"] < server_round]
    now, changes = _decide(config, before), []
    was = _decide(config, before[:-1])
    if now.lr_scale != was.lr_scale and config.adaptive.plateau_patience is not None:
        name = config.evaluation.best_metric
        values = _watched(config, name, before)
        winner = best(values, METRICS[name]) or 0
        changes.append(
            f"learning rate x {now.lr_scale:g} (x {was.lr_scale:g} before): for {config.adaptive.plateau_patience + 1} "
            f"rounds {name} was not better than round {winner}'s {values[winner]:.4g}"
        )
    if now.proximal_mu != was.proximal_mu:
        way = "rose" if now.proximal_mu > was.proximal_mu else f"fell {config.adaptive.mu_patience} times running"
        changes.append(f"mu {now.proximal_mu:g} ({was.proximal_mu:g} before): the held-out loss {way}")
    for client, steps in now.steps.items():
        if steps != was.steps.get(client):
            changes.append(
                f"{client}: {steps} steps ({was.steps[client]} before), by its held-out error beside the others'"
            )
    return Decision(now.lr_scale, now.proximal_mu, now.steps, changes)


def _decide(config: RunConfig, rounds: Sequence[Json]) -> Decision:
    adaptive = config.adaptive
    scale, mu = 1.0, config.federation.proximal_mu
    if adaptive.plateau_patience is not None:
        name = config.evaluation.best_metric
        values = list(_watched(config, name, rounds).values())
        scale = plateau(values, METRICS[name], adaptive.plateau_patience, adaptive.plateau_factor)
    if adaptive.mu_step is not None:
        losses = list(_watched(config, "loss", rounds).values())
        mu = dynamic_mu(losses, mu, adaptive.mu_step, adaptive.mu_patience)
    return Decision(scale, mu, _steps(config, rounds[-1] if rounds else {}))


def plateau(values: Sequence[float], metric: Metric, patience: int, factor: float) -> float:
    """What the learning rate is multiplied by after these values: torch's ReduceLROnPlateau with its defaults.

    Written out because the orchestrator, which asks, never imports torch.

    Args:
        values: the metric after each round, round 0 first.
        metric: says which way is better.
        patience: values without improvement that are borne; one more and the rate falls, and counting begins anew.
        factor: what it is then multiplied by.
    """
    scale, so_far, bad = 1.0, None, 0
    for value in values:
        if so_far is None or metric.better(value, so_far, THRESHOLD):
            so_far, bad = value, 0
        else:
            bad += 1
        if bad > patience:
            scale, bad = scale * factor, 0
    return scale


def dynamic_mu(losses: Sequence[float], mu: float, step: float, patience: int) -> float:
    """FedProx's mu after these losses, by the heuristic of Li et al. 2020 (arXiv:1812.06127), appendix C.3.3.

    There: mu rises by 0.1 whenever the loss does, and falls by 0.1 when the loss fell in 5 rounds running. Their loss
    is that of all training data; here it is the clients' held-out one.

    Args:
        losses: after each round, round 0 first.
        mu: to begin with.
        step: what is added or taken away; mu never falls below 0.
        patience: falls running before mu falls; then counting begins anew.
    """
    falls = 0
    for before, now in pairwise(losses):
        if now > before:
            mu, falls = mu + step, 0
        else:
            falls = falls + 1 if now < before else 0
        if falls == patience:
            mu, falls = max(0.0, mu - step), 0
    return mu


def boosted_steps(errors: Mapping[str, float], steps: Mapping[str, int], most: float) -> dict[str, int]:
    """Local steps of each client: more than usual where its error is above the mean of all, in that proportion.

    Averaging then leans towards who takes more steps (Wang et al. 2020, arXiv:2007.07481): that is what it is for, and
    why it is bounded.

    Args:
        errors: client -> its held-out error; lower is better.
        steps: client -> the usual number.
        most: the largest multiple.

    Returns:
        Client -> steps, never fewer than usual.
    """
    mean = sum(errors.values()) / len(errors) if errors else 0.0
    ratios = {name: error / mean if mean > 0 else 1.0 for name, error in errors.items()}
    return {name: round(steps[name] * min(max(ratio, 1.0), most)) for name, ratio in ratios.items()}


def _steps(config: RunConfig, last: Json) -> dict[str, int]:
    """Steps of every client after a round; those whose evaluation is missing take the usual number."""
    watched = METRICS[config.evaluation.best_metric]
    key = (watched if watched.part == "evaluate" else METRICS["action_error"]).key  # clients have no success
    steps = {client.name: config.training_of(client.name).steps for client in config.clients}
    evaluated = mapping(last.get("evaluate"))
    errors = {client.name: units.value(evaluated.get(client.name), key) for client in config.clients}
    known = {name: error for name, error in errors.items() if error is not None}
    if not units.comparable(units.unit_of(evaluated[name], key) for name in known):
        known = {}
    return {**steps, **boosted_steps(known, steps, config.adaptive.boost_max)}


def _watched(config: RunConfig, name: str, rounds: Sequence[Json]) -> dict[int, float]:
    """A metric's values by round, over the same datasets and frames."""
    names = dataset_names(config.model_dump(mode="json"), METRICS[name])
    return scores(rounds, METRICS[name], names, quick=config.evaluation.full_every != 1)
