"""What comes in at a round: whole updates of a usual size, clipped where that is asked for, and failures by name."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from loguru import logger

from zk0.aggregation.admission import Change, History, Verdict, check_update, judge
from zk0.aggregation.by_piece import THREADS
from zk0.aggregation.norms import LITTLE
from zk0.aggregation.replies import update_record
from zk0.config import RunConfig
from zk0.errors import ClientError
from zk0.work.records import CLIPPED, ClientFailure, ClientResult


@dataclass(frozen=True)
class Admitted:
    """Every client that was asked: its update, or why there is none; in config order."""

    results: dict[str, ClientResult]
    """Client -> its fit, whose update is aggregated."""
    failed: dict[str, ClientFailure]
    """The others."""
    norms: dict[str, float]
    """Client -> norm of its change, as it came, of those in `results`."""
    scales: dict[str, float]
    """Client -> what its change is multiplied by, 1 for as it came."""
    history: History
    """With this round."""

    def records(self, run_dir: Path, arrays: Path) -> dict[str, ArrayRecord]:
        """Client -> what is aggregated of it, lazily read; new at every call, for strategies take things out.

        Args:
            run_dir: the run directory.
            arrays: safetensors file of the global tensors.
        """
        return {
            client: update_record(result, run_dir, arrays, self.scales[client])
            for client, result in self.results.items()
        }

    def clipped(self, client: str) -> bool:
        """Whether a client's change was larger than the bound: by its own word where it clips itself."""
        return self.scales[client] < 1 or bool(self.results[client].metrics.get(CLIPPED, 0))

    def figures(self) -> dict[str, Any]:
        """Plain data, for a round's metrics."""
        clipped = {client: scale for client, scale in self.scales.items() if scale < 1}
        return {"norms": self.norms, **({"scaled": clipped} if clipped else {})}


@dataclass(frozen=True)
class Door:
    """Decides for one round."""

    config: RunConfig
    """The run's."""
    server_round: int
    """The round."""
    arrays: Path
    """Safetensors file of the global tensors that the fits started from."""
    frozen: Collection[str]
    """Names of those that no client sends."""
    examples: Mapping[str, int]
    """Client -> frames that it trains on, where they were counted."""
    bound: float | None
    """Norm that changes are clipped to, for differential privacy; else None."""

    def admit(
        self,
        clients: Sequence[str],
        results: Iterable[ClientResult],
        run_dir: Path,
        failures: Iterable[ClientFailure],
        before: History,
    ) -> Admitted:
        """Sort out what came.

        Args:
            clients: who was asked, in config order.
            results: finished fits.
            run_dir: the run directory.
            failures: those that gave none.
            before: of the rounds before.

        Raises:
            StorageError: an update's file is missing or not what the fit wrote.
        """
        given = {result.client: result for result in results}
        known = {failure.client: failure for failure in failures}
        if strangers := sorted((given.keys() | known.keys()) - set(clients)):
            raise ValueError(f"round {self.server_round}: {', '.join(strangers)} was not sampled")
        came = [given[name] for name in clients if name in given]
        with ThreadPoolExecutor(THREADS) as threads:  # hashes and sums leave Python to others
            seen = dict(threads.map(lambda result: (result.client, self._seen(result, run_dir)), came))
        changes = {client: change for client, change in seen.items() if isinstance(change, Change)}
        norms = {client: change.norm for client, change in changes.items()}
        refused = {client: why for client, why in seen.items() if isinstance(why, str)}
        verdict = self._judged(changes, before)
        for client, why in verdict.refused.items():
            refused[client] = f"client {client!r}, round {self.server_round}: {why}"
        for why in refused.values():
            logger.warning("Round {}: update refused: {}", self.server_round, why)
        failed = {name: self._failure(name, known, refused) for name in clients if name not in verdict.scales}
        scales = {client: self._private(scale, norms[client]) for client, scale in verdict.scales.items()}
        for client, scale in scales.items():
            if scale < 1 and self.bound is None:
                logger.warning("Round {}: the change of {} is scaled by {:.4g}", self.server_round, client, scale)
        admitted = {client: norms[client] for client in scales}
        return Admitted(
            results={client: given[client] for client in scales},
            failed=failed,
            norms=admitted,
            scales=scales,
            history=before.after(
                {client: norm * scales[client] for client, norm in admitted.items()},
                refused,
                {client: changes[client].beside * scale for client, scale in scales.items()},
            ),
        )

    def _judged(self, changes: Mapping[str, Change], before: History) -> Verdict:
        """Parameters and what no gradient made are compared apart, each with its like; the worse counts."""
        bounds = self._bounds()
        verdict = judge({client: change.norm for client, change in changes.items()}, before, bounds)
        beside = judge(
            {client: change.beside for client, change in changes.items()},
            replace(before, norms=before.beside),
            bounds.model_copy(update={"max_norm": None}),
            "the change of what it learns beside its parameters",
        )
        refused = beside.refused | verdict.refused
        scales = {
            client: min(scale, beside.scales[client])
            for client, scale in verdict.scales.items()
            if client not in refused
        }
        return Verdict(verdict.bounds, scales, refused)

    def _seen(self, result: ClientResult, run_dir: Path) -> Change | str:
        """How large a client's change is, or why it is refused."""
        try:
            return self._norm(result, run_dir)
        except ClientError as error:
            return str(error)

    def _norm(self, result: ClientResult, run_dir: Path) -> Change:
        """See `check_update`; where clients clip, their change must be within the bound."""
        examples = self.examples.get(result.client)
        change = check_update(result, run_dir, self.arrays, self.frozen, examples)
        norm = change.norm
        clips = self.config.federation.privacy.side == "client"
        if self.bound is not None and clips and norm > self.bound * (1 + LITTLE):
            raise ClientError(
                "bad_data",
                f"client {result.client!r}, round {result.server_round}: its change has the norm {norm:.4g} and "
                f"should have been clipped to {self.bound:.4g} (federation.privacy.side = 'client')",
            )
        return change

    def _bounds(self) -> Any:
        admission = self.config.federation.admission
        alone = len(self.config.clients) == 1  # a run of one would only ever be compared with its own past
        return admission.model_copy(update={"max_norm_ratio": 0.0}) if alone else admission

    def _private(self, scale: float, norm: float) -> float:
        """The scale that brings a change within the bound of differential privacy, too."""
        return scale if self.bound is None or norm * scale <= self.bound else self.bound / norm

    def _failure(self, client: str, known: Mapping[str, ClientFailure], refused: Mapping[str, str]) -> ClientFailure:
        if client in known and client not in refused:
            return known[client]
        cause, message = (
            ("bad_data", refused[client]) if client in refused else ("lost", "gave neither update nor cause")
        )
        return ClientFailure.model_validate(
            {"client": client, "server_round": self.server_round, "kind": "train", "cause": cause, "message": message}
        )
