"""The pairs of LoRA factors on the server: what averaging them apart misses, and the average of their products.

An adapter adds lora_alpha / r * B A to a weight of shape (out, in); B is (out, r) and A is (r, in). Of clients with
weights w_i (sum 1), FedAvg makes B' = sum w_i B_i and A' = sum w_i A_i, and B' A' is not sum w_i B_i A_i. The factor
lora_alpha / r is the same everywhere and cancels in everything here.

The average of N products has rank N r at most and is never written out: with the clients' factors side by side it is
L R, L = [w_1 B_1 ... w_N B_N] and R = [A_1; ...; A_N], and by L = Q_L T_L and R^T = Q_R T_R its singular values are
those of the small T_L T_R^T. All sums are in float64.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PARTNERS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}
"""Part of the dotted name of a factor A -> the same part in the name of its B, as PEFT spells them."""
type Factors = tuple[NDArray[Any], NDArray[Any]]
"""B (out, r, ...) and A (r, in, ...); convolutions have further axes, which are counted as out and in."""
type Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Refactored:
    """The average of products as a product of two factors again."""

    b: NDArray[Any]
    """Shape and dtype of the clients' B."""
    a: NDArray[Any]
    """Shape and dtype of the clients' A; its rows are orthonormal, as far as there are so many."""
    dropped: float
    """Frobenius norm of what rank r has no room for."""


def is_factor_a(name: str) -> bool:
    """Whether a tensor or parameter of this name is a LoRA factor A."""
    return not _PARTNERS.keys().isdisjoint(name.split("."))


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """The names (of B, of A) of every adapter, in the order of the names of A."""
    known = set(names)
    found = [(".".join(_PARTNERS.get(part, part) for part in name.split(".")), name) for name in known]
    return sorted(((b, a) for b, a in found if b != a and b in known), key=lambda pair: pair[1])


def norm(factors: Sequence[Factors], weights: Sequence[float]) -> float:
    """Frobenius norm of sum w_i B_i A_i; to about 1e-8 of its terms, where they cancel each other."""
    left, right = _side_by_side(factors, weights)
    # ||L R||^2 = tr(L^T L R R^T). A QR would be finer, and numpy's takes fifty times the time, in every round.
    return math.sqrt(max(0.0, float(np.sum((left.T @ left) * (right @ right.T)))))


def gap(factors: Sequence[Factors], weights: Sequence[float]) -> float:
    """Frobenius norm of (sum w_i B_i) (sum w_i A_i) - sum w_i B_i A_i, the error of averaging the factors apart.

    As with any covariance, the difference is -sum w_i (B_i - B') (A_i - A'), which has no large terms that cancel.
    """
    mean_b, mean_a = (
        np.sum([weight * pair[side].astype(np.float64) for pair, weight in zip(factors, weights, strict=True)], axis=0)
        for side in (0, 1)
    )
    return norm([(b - mean_b, a - mean_a) for b, a in factors], weights)


def refactor(factors: Sequence[Factors], weights: Sequence[float]) -> Refactored:
    """The factors of rank r whose product is nearest to sum w_i B_i A_i (Eckart and Young, 1936).

    With the singular value decomposition U S V^T of the average, B = U_r S_r and A = V_r^T: like a new adapter's, A's
    rows have a norm near one and B is as large as the change is, and where the average has a lower rank than r, B is
    zero and A is not, so that all of them can go on learning. Of the two signs of each pair of singular vectors the
    one is taken that makes the largest entry of A's row positive.

    Args:
        factors: the clients' (B, A), all of one shape, finite.
        weights: what each counts; their sum is 1.
    """
    first_b, first_a = factors[0]
    rank = len(first_a)
    left, right = _side_by_side(factors, weights)
    (q_left, t_left), (q_right, t_right) = np.linalg.qr(left), np.linalg.qr(right.T)
    u, s, vt = np.linalg.svd(t_left @ t_right.T, full_matrices=True)
    kept = min(rank, len(s))
    a = np.zeros((rank, right.shape[1]))
    a[: min(rank, len(vt))] = vt[:rank] @ q_right.T
    signs = np.where(a[np.arange(rank), np.abs(a).argmax(axis=1)] < 0, -1.0, 1.0)
    b = np.zeros((left.shape[0], rank))
    b[:, :kept] = q_left @ u[:, :kept] * s[:kept]
    return Refactored(
        b=(b * signs).reshape(first_b.shape).astype(first_b.dtype),
        a=(a * signs[:, None]).reshape(first_a.shape).astype(first_a.dtype),
        dropped=float(np.linalg.norm(s[kept:])),
    )


def _side_by_side(factors: Sequence[Factors], weights: Sequence[float]) -> tuple[Matrix, Matrix]:
    """L (out, N r) and R (N r, in), whose product is sum w_i B_i A_i."""
    left = [weight * b.astype(np.float64).reshape(-1, len(a)) for (b, a), weight in zip(factors, weights, strict=True)]
    right = [a.astype(np.float64).reshape(len(a), -1) for _, a in factors]
    return np.hstack(left), np.vstack(right)
