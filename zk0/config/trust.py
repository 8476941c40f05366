"""How far the clients are trusted: [federation.admission], [federation.privacy], and what robust strategies need."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from zk0.config.part import Part, refuse_unread

PRIVACY_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "fixed": ("side", "noise_multiplier", "clipping_norm", "delta", "max_epsilon"),
    "adaptive": (
        *("side", "noise_multiplier", "clipping_norm", "delta", "max_epsilon"),
        *("target_clipped_quantile", "clip_norm_lr", "clipped_count_stddev"),
    ),
}
"""federation.privacy.kind -> the keys of [federation.privacy] that it reads."""

PRIVATE_STRATEGIES = ("fedavg", "fedprox")
"""Those whose aggregate is a plain mean: what Flower's accountant asks for."""


class AdmissionConfig(Part):
    """Which updates may be aggregated, beside those of other names, shapes, dtypes or values that are not finite.

    See [threats.md](threats.md).
    """

    max_norm_ratio: float = Field(default=10.0, ge=0)
    """How many times larger a client's change (its update less the global tensors, as one vector) may be than is usual:
    the larger of the median of the others in this round and the median of all admitted in the five rounds before. With
    one client there is nothing to compare with, and with two not in the first round. 0 for any."""
    max_norm: float | None = Field(default=None, gt=0)
    """Largest norm of a client's change, whatever the others do."""
    action: Literal["refuse", "clip"] = "refuse"
    """What becomes of a larger one: `refuse`: the client counts as failed in the round; `clip`: its change is scaled
    down to the bound."""
    quarantine_after: int = Field(default=3, ge=0)
    """Rounds running in which a client's update is refused, for whatever reason, before it sits out all further ones;
    the file `limits/<client>.admission.json` of the run says why, and removing it lifts that. 0 for never."""

    @model_validator(mode="after")
    def _more_than_usual(self) -> Self:
        if 0 < self.max_norm_ratio <= 1:
            raise ValueError(
                f"max_norm_ratio = {self.max_norm_ratio:g} would refuse what is usual; give more than 1, or 0 for any"
            )
        if self.action == "clip" and not self.max_norm_ratio and self.max_norm is None:
            raise ValueError("action = 'clip' needs max_norm_ratio or max_norm, and there is neither; give one")
        return self


class PrivacyConfig(Part):
    """Differential privacy of what the clients' training gives, by Flower's wrappers; see [threats.md](threats.md)."""

    kind: Literal["none", "fixed", "adaptive"] = "none"
    """`fixed`: each client's change is clipped to clipping_norm and noise is added to the mean (arXiv:1710.06963);
    `adaptive`: the bound follows a quantile of the clients' norms (arXiv:1905.03871)."""
    side: Literal["server", "client"] = "server"
    """Who clips: the `server`, or each `client` before anything leaves it, which the server then checks. The noise is
    the server's."""
    noise_multiplier: float = Field(default=1.0, ge=0)
    """Standard deviation of the noise on the clients' sum, in sizes of the clipping norm; 0 gives no privacy."""
    clipping_norm: float = Field(default=0.1, gt=0)
    """Largest norm of a client's change; with `adaptive` the one to begin with."""
    target_clipped_quantile: float = Field(default=0.5, ge=0, le=1)
    """`adaptive`: share of the clients whose norm should be below the bound."""
    clip_norm_lr: float = Field(default=0.2, gt=0)
    """`adaptive`: how fast the bound follows."""
    clipped_count_stddev: float | None = Field(default=None, gt=0)
    """`adaptive`: noise on the number of clipped clients; a twentieth of the sampled clients when absent. More than
    half of noise_multiplier."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """The delta at which the spent epsilon is told."""
    max_epsilon: float | None = Field(default=None, gt=0)
    """The most that the whole run may spend; a run that would spend more is refused before it starts."""

    @property
    def active(self) -> bool:
        """Whether there is any."""
        return self.kind != "none"

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        refuse_unread(self, "kind", PRIVACY_KEYS)
        if self.max_epsilon is not None and self.noise_multiplier == 0:
            raise ValueError(
                f"max_epsilon = {self.max_epsilon:g} with noise_multiplier = 0: without noise no epsilon is finite; "
                "give noise, or leave max_epsilon out"
            )
        return self


def check_privacy(privacy: PrivacyConfig, strategy: str, weighting: str) -> None:
    """Refuse differential privacy around what it is not reckoned for.

    Raises:
        ValueError: names the key, its value and the remedy.
    """
    if not privacy.active:
        return
    if strategy not in PRIVATE_STRATEGIES:
        raise ValueError(
            f"privacy.kind = {privacy.kind!r} needs a strategy that is a plain mean, and it is {strategy!r}; use "
            "'fedavg' or 'fedprox'"
        )
    if weighting != "uniform":
        raise ValueError(
            f"privacy.kind = {privacy.kind!r} needs weighting = 'uniform': one client's share of the mean must be "
            "known; set that"
        )


def least_updates(strategy: str, num_malicious_nodes: int) -> int:
    """Updates that a robust strategy needs: 2 f + 3 (Krum, MultiKrum), 4 f + 3 (Bulyan), 3 (FedTrimmedAvg); else 1."""
    malicious = num_malicious_nodes
    needed = {"krum": 2 * malicious + 3, "multikrum": 2 * malicious + 3, "bulyan": 4 * malicious + 3}
    return needed.get(strategy, 3 if strategy == "fedtrimmedavg" else 1)


def check_robust(
    strategy: str, sampled: int, beta: float | None, num_malicious_nodes: int | None, num_nodes_to_select: int | None
) -> None:
    """Refuse a robust strategy that could defend nobody among so many clients.

    Args:
        strategy: federation.strategy.
        sampled: clients that are asked in a round.
        beta: FedTrimmedAvg's.
        num_malicious_nodes: Krum's, MultiKrum's and Bulyan's f.
        num_nodes_to_select: MultiKrum's m.

    Raises:
        ValueError: names the keys, their values and the remedy.
    """
    malicious = 1 if num_malicious_nodes is None else num_malicious_nodes
    if sampled < (needed := least_updates(strategy, malicious)):
        how = "" if strategy == "fedtrimmedavg" else f" with federation.num_malicious_nodes = {malicious}"
        raise ValueError(
            f"federation.strategy = {strategy!r}{how} needs {needed} clients in every round, and {sampled} are "
            "sampled; add clients or raise federation.fraction_train"
            + (", or lower num_malicious_nodes" if how else "")
        )
    share = 0.2 if beta is None else beta
    if strategy == "fedtrimmedavg" and int(share * sampled) < 1:
        raise ValueError(
            f"federation.beta = {share:g} cuts nobody off of the {sampled} clients that are sampled in a round; raise "
            f"it to {math.ceil(1000 / sampled) / 1000:g}, or have {math.ceil(1 / share)} clients in a round"
        )
    if strategy == "multikrum" and num_nodes_to_select is not None and num_nodes_to_select > sampled - malicious:
        raise ValueError(
            f"federation.num_nodes_to_select = {num_nodes_to_select} is more than the {sampled - malicious} of "
            f"{sampled} sampled clients that are not malicious; lower it"
        )
