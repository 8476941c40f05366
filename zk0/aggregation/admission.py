"""Which updates may be aggregated: whole, finite, and of a size that is usual among the clients.

The norm of a client's change is that of its update less the global tensors, as one vector of float64; that of what no
gradient made (`carried`) is taken apart, for it may be of quite another size. What was admitted before is carried in
`strategy.json` of each round, so that a decision is a pure function of what is committed.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, NoReturn

import numpy as np

from zk0.aggregation.carried import is_state
from zk0.aggregation.flower import lazy_record
from zk0.aggregation.norms import square
from zk0.config import AdmissionConfig
from zk0.errors import ClientError, DamageError
from zk0.files import atomic
from zk0.work.records import ClientResult

KEPT_ROUNDS = 5
"""Rounds before whose norms are compared with."""
KEPT_WORDS = 30
"""Refusals running that are kept of a client."""
LEAST_OTHERS = 2
"""Others in a round without whom its norms alone say nothing: of two who differ nobody knows who is odd."""


@dataclass(frozen=True)
class History:
    """What admission remembers of the rounds before."""

    norms: Sequence[Sequence[float]] = ()
    """Norms of the admitted changes, of the newest KEPT_ROUNDS rounds, oldest first."""
    refused: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Client -> why its update was refused, in each of the rounds running in which it was; the newest KEPT_WORDS."""
    beside: Sequence[Sequence[float]] = ()
    """As `norms`, of what no gradient made."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "History":
        """From what `record` gave; nothing of a run that is older than admission."""
        return cls(record.get("norms", ()), record.get("refused", {}), record.get("beside", ()))

    def record(self) -> dict[str, Any]:
        """Plain data, for strategy.json."""
        return {
            "norms": [list(norms) for norms in self.norms],
            "refused": {client: list(words) for client, words in self.refused.items()},
            **({"beside": [list(norms) for norms in self.beside]} if self.beside else {}),
        }

    def after(
        self, norms: Mapping[str, float], refused: Mapping[str, str], beside: Mapping[str, float] | None = None
    ) -> "History":
        """With one round more.

        Args:
            norms: client -> norm of its change, of those that were admitted, as it was aggregated.
            refused: client -> why its update was refused; those who sent none keep what is held against them.
            beside: client -> the same of what no gradient made; None or all 0 where there is nothing of the kind.
        """
        words = {client: said for client, said in self.refused.items() if client not in norms}
        words |= {client: [*words.get(client, ()), why][-KEPT_WORDS:] for client, why in refused.items()}
        own = [*(beside or {}).values()]
        others = (*self.beside, own)[-KEPT_ROUNDS:] if any(own) else self.beside
        return History((*self.norms, [*norms.values()])[-KEPT_ROUNDS:], words, others)


class Change(NamedTuple):
    """How large a client's change is."""

    norm: float
    """Of its parameters."""
    beside: float
    """Of the floats that no gradient made; 0 where there are none."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done with the changes of a round."""

    bounds: dict[str, float]
    """Client -> the largest norm that it may have; infinite where there is nothing to compare with."""
    scales: dict[str, float]
    """Client -> what its change is multiplied by, 1 for as it is; without those that are refused."""
    refused: dict[str, str]
    """Client -> why."""


def check_update(
    result: ClientResult, run_dir: Path, arrays: Path, frozen: Collection[str] = (), examples: int | None = None
) -> Change:
    """Refuse an update that must not be aggregated.

    Args:
        result: the finished fit.
        run_dir: the run directory.
        arrays: safetensors file of the global tensors that the fit started from.
        frozen: names of those that no client sends.
        examples: frames that the client trains on; None where nobody counted them.

    Raises:
        ClientError: bad_data: no examples, or others than were counted, no tensors, other names, shapes or dtypes, or
            values that are not finite; names the first tensor.
        StorageError: the update's file is missing or not what the fit wrote.
    """
    if result.tensors is None or result.num_examples < 1:
        _refuse(result, f"num_examples = {result.num_examples}, tensors = {result.tensors}: nothing was trained")
    if examples is not None and result.num_examples != examples:
        _refuse(result, f"num_examples = {result.num_examples}, and {examples} were counted before the run")
    path = run_dir / result.tensors.path
    atomic.verify(path, result.tensors.sha256, result.tensors.size)
    there = lazy_record(arrays, frozen, follow=True)
    try:
        here = lazy_record(path)
    except DamageError as error:  # just what the fit wrote: no damage, and the same whenever it is read
        _refuse(result, str(error))
    if odd := sorted(there.keys() ^ here.keys()):
        fault = "missing" if odd[0] in there else "frozen" if odd[0] in frozen else "not one of the global tensors"
        _refuse(result, f"tensor {odd[0]!r} is {fault}")
    squares = {False: 0.0, True: 0.0}
    for name, array in here.items():
        expected = (there[name].dtype, there[name].shape)
        if (array.dtype, array.shape) != expected:
            _refuse(
                result, f"tensor {name!r} is {array.dtype}{list(array.shape)}, not {expected[0]}{list(expected[1])}"
            )
        value = array.numpy()
        if not np.isfinite(value).all():
            _refuse(result, f"tensor {name!r} has values that are not finite; lower training.lr or check its data")
        squares[is_state(name)] += square(value, there[name].numpy())
    if not math.isfinite(sum(squares.values())):
        _refuse(result, "its change is too large for a number; lower training.lr or check its data")
    return Change(math.sqrt(squares[False]), math.sqrt(squares[True]))


def judge(
    norms: Mapping[str, float], history: History, admission: AdmissionConfig, what: str = "its change"
) -> Verdict:
    """Compare the changes of a round with one another and with those before.

    Args:
        norms: client -> norm of its change, of all whose update is whole.
        history: of the rounds before.
        admission: the bounds.
        what: words for what has the norm.
    """
    before = [norm for earlier in history.norms for norm in earlier]
    verdict = Verdict({}, {}, {})
    for client, norm in norms.items():
        usual = _usual([other for name, other in norms.items() if name != client], before)
        ratio = admission.max_norm_ratio
        relative = ratio * usual if ratio and usual else math.inf
        bound = min(relative, math.inf if admission.max_norm is None else admission.max_norm)
        verdict.bounds[client] = bound
        if norm <= bound:
            verdict.scales[client] = 1.0
        elif admission.action == "clip":
            verdict.scales[client] = bound / norm
        elif bound == relative:
            verdict.refused[client] = (
                f"{what} has the norm {norm:.4g}, {norm / (usual or 1):.4g} times the usual {usual:.4g} "
                f"(federation.admission.max_norm_ratio = {ratio:g}); lower training.lr or check its data"
            )
        else:
            verdict.refused[client] = (
                f"{what} has the norm {norm:.4g} (federation.admission.max_norm = {bound:g}); lower training.lr or "
                "check its data"
            )
    return verdict


def _usual(others: Sequence[float], before: Sequence[float]) -> float | None:
    """The norm that a change usually has: the larger of two medians; None where nothing can be said."""
    if len(others) < LEAST_OTHERS and not before:
        return None
    return max(median(norms) for norms in (others, before) if norms)


def _refuse(result: ClientResult, reason: str) -> NoReturn:
    raise ClientError("bad_data", f"client {result.client!r}, round {result.server_round}: {reason}")
