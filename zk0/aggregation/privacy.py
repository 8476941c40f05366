"""Differential privacy: Flower's wrappers, with what a run needs besides: a state that can be saved, and a ledger.

Whoever clips, they are Flower's wrappers for clipping by the clients; where the server does, it does so at its door, by
`flower.scaled_record`. Flower's own for the server move the last bits of updates within the bound, and divide by the
norm of an update that changes nothing. Noise is drawn from numpy's global generator, which `flower.seeded` seeds in
each round.

Of Flower's private parts two are used: how its wrappers add the noise, which here must wait until it is known who is
there, and the name of the bit that a client sends for adaptive clipping; see tests/unit/aggregation/test_privacy.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import GaussianPrivacyEvent, NeighboringRelation, PrivacyAccountant, PrivacySpent, SamplingMethod
from flwr.serverapp import PrivacyConfig as Accounting
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    Strategy,
)
from flwr.supercore.differential_privacy import KEY_NORM_BIT

from zk0.config import FederationConfig, PrivacyConfig, RunConfig
from zk0.errors import ConfigError, first_line


@runtime_checkable
class Private(Protocol):
    """A strategy that gives differential privacy."""

    clipping_norm: float
    """Largest norm of a client's change, now."""
    num_sampled_clients: int
    """Those whose updates are averaged; the noise is in proportion to one of them."""

    def spent(self) -> PrivacySpent | None:
        """What all rounds so far have spent; None without noise."""


class FixedClipping(DifferentialPrivacyClientSideFixedClipping):
    """With a bound that stays."""

    def spent(self) -> PrivacySpent | None:
        """See `Private.spent`."""
        return self.privacy_spent()

    def _add_noise_to_aggregated_arrays(self, aggregated_arrays: ArrayRecord) -> ArrayRecord:
        """Without noise not a bit changes: adding 0 makes 0 of -0."""
        return (
            super()._add_noise_to_aggregated_arrays(aggregated_arrays) if self.noise_multiplier else aggregated_arrays
        )

    def state_dict(self) -> dict[str, Any]:
        """What the next round's must know."""
        return {} if self.accountant is None else {"accountant": self.accountant.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        if self.accountant is not None:
            self.accountant.load_state_dict(state["accountant"])


class AdaptiveClipping(DifferentialPrivacyClientSideAdaptiveClipping):
    """With a bound that follows a quantile of the clients' norms.

    Flower's accountant knows it not; a round is one Gaussian release of the multiplier asked for, for the noise on the
    count of clipped clients is made up for by more noise on the mean (arXiv:1905.03871, theorem 1).
    """

    def __init__(
        self, strategy: Strategy, privacy: PrivacyConfig, sampled: int, accountant: PrivacyAccountant | None
    ) -> None:
        """Make Flower's, with a ledger beside it."""
        super().__init__(
            strategy,
            privacy.noise_multiplier,
            sampled,
            initial_clipping_norm=privacy.clipping_norm,
            target_clipped_quantile=privacy.target_clipped_quantile,
            clip_norm_lr=privacy.clip_norm_lr,
            clipped_count_stddev=privacy.clipped_count_stddev,
        )
        self._asked, self.accountant = privacy.noise_multiplier, accountant

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Flower's, and the release is written into the ledger."""
        record, metrics = super().aggregate_train(server_round, replies)
        if record and self.accountant is not None:
            population = self.accountant.config.population_size
            self.accountant.compose(GaussianPrivacyEvent(self._asked, self.num_sampled_clients, population))
        return record, metrics

    def spent(self) -> PrivacySpent | None:
        """See `Private.spent`."""
        return None if self.accountant is None else self.accountant.get_privacy_spent()

    def _add_noise_to_aggregated_arrays(self, aggregated: ArrayRecord) -> ArrayRecord:
        """Without noise not a bit changes: adding 0 makes 0 of -0."""
        return super()._add_noise_to_aggregated_arrays(aggregated) if self.noise_multiplier else aggregated

    def state_dict(self) -> dict[str, Any]:
        """What the next round's must know."""
        ledger = None if self.accountant is None else self.accountant.state_dict()
        return {"clipping_norm": self.clipping_norm, "accountant": ledger}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.clipping_norm = state["clipping_norm"]
        if self.accountant is not None:
            self.accountant.load_state_dict(state["accountant"])


def with_privacy(strategy: Strategy, federation: FederationConfig, num_clients: int) -> Strategy:
    """A strategy with federation.privacy around it; as it is where there is none.

    Raises:
        ConfigError: a key does not fit the number of clients, or the accountant is not installed.
    """
    privacy = federation.privacy
    if not privacy.active:
        return strategy
    sampled = federation.sampled(num_clients)
    accountant = _accountant(privacy, num_clients) if privacy.noise_multiplier else None
    try:
        if privacy.kind == "adaptive":
            return AdaptiveClipping(strategy, privacy, sampled, accountant)
        return FixedClipping(strategy, privacy.noise_multiplier, privacy.clipping_norm, sampled, accountant=accountant)
    except ValueError as error:
        raise ConfigError(
            f"federation.privacy.noise_multiplier = {privacy.noise_multiplier:g} with {sampled} clients in a round: "
            f"{first_line(error)}"
        ) from error


def check_privacy_budget(config: RunConfig) -> float | None:
    """What a whole run will have spent; None where there is no noise.

    Raises:
        ConfigError: more than federation.privacy.max_epsilon.
    """
    federation = config.federation
    privacy, clients = federation.privacy, len(config.clients)
    if not privacy.active or not privacy.noise_multiplier:
        return None
    accountant = _accountant(privacy, clients)
    accountant.compose(GaussianPrivacyEvent(privacy.noise_multiplier, clients, clients), federation.num_rounds)
    epsilon = accountant.get_privacy_spent().epsilon
    if privacy.max_epsilon is not None and epsilon > privacy.max_epsilon:
        raise ConfigError(
            f"federation.privacy.max_epsilon = {privacy.max_epsilon:g}: num_rounds = {federation.num_rounds} rounds "
            f"with noise_multiplier = {privacy.noise_multiplier:g} spend {epsilon:.4g} at delta = "
            f"{privacy.delta:g}; raise noise_multiplier or max_epsilon, or lower num_rounds"
        )
    return float(epsilon)


def _accountant(privacy: PrivacyConfig, num_clients: int) -> PrivacyAccountant:
    """Flower's ledger: all of every client's data against none of it, without amplification by sampling."""
    try:
        from flwr.serverapp import RdpAccountant

        accountant: PrivacyAccountant = RdpAccountant(
            Accounting(
                privacy.delta, num_clients, NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
            )
        )
    except ImportError as error:
        raise ConfigError(
            f"federation.privacy.kind = {privacy.kind!r} needs dp-accounting, which is not installed; install zk0[dp]"
        ) from error
    return accountant


def norm_bit(*, clipped: bool) -> dict[str, float]:
    """What a reply tells of its norm, for the bound that adapts: 1 for below it.

    That is the paper's bit, which Flower's formula is right with: C exp(-rate (share of 1 - quantile)). Flower's own
    modifier for clients sends the opposite, by which the bound runs away from the quantile.
    """
    return {KEY_NORM_BIT: float(not clipped)}


def figures(strategy: Strategy, before: float) -> dict[str, float]:
    """What a round's metrics say.

    Args:
        strategy: after the round.
        before: the bound that the round's changes were clipped to.
    """
    assert isinstance(strategy, Private)
    told = {"clipping_norm": before, "next_clipping_norm": strategy.clipping_norm}
    spent = strategy.spent()
    return told if spent is None else {**told, "epsilon": spent.epsilon, "delta": spent.delta}
