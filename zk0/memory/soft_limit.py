"""The soft limit: tells a fit, between two steps, that it uses so much memory that it had better end itself."""

import time

from zk0.config import size_in_bytes
from zk0.memory.sampler import MemorySampler
from zk0.memory.samples import Sample
from zk0.memory.usage import gib, high_water_bytes

LOOK_AGAIN_S = 2.0
"""A full reading costs some milliseconds: it is taken after this time, or when the process has reached a new height."""


class SoftLimit:
    """Compares what a worker and its descendants used, at the highest since the fit began, with what they may use.

    Args:
        limit: `memory.soft_limit`: a share of what the worker can have, or a size; 0 for none.
        sampler: the worker's.
    """

    def __init__(self, limit: float | str, sampler: MemorySampler) -> None:
        self._limit = size_in_bytes(limit) if isinstance(limit, str) else limit
        self._text = repr(limit)
        self._sampler = sampler
        self._highest = 0
        self._next = 0.0

    def __call__(self) -> str | None:
        """Why the fit must end, with the figures; None where it need not."""
        if not self._limit:
            return None
        highest, now = high_water_bytes(), time.monotonic()
        if highest <= 1.01 * self._highest and now < self._next:
            return None
        self._highest, self._next = highest, now + LOOK_AGAIN_S
        sample = self._sampler.sample(write=False)
        used, available, whose = can_have(sample)
        allowed = self._limit if self._limit > 1 else self._limit * available
        if used <= allowed:
            return None
        self._sampler.sample()
        return (
            f"soft limit: {gib(used)} used, of {gib(available)} {whose}; "
            f"memory.soft_limit = {self._text} allows {gib(int(allowed))}"
        )


def can_have(sample: Sample) -> tuple[int, int, str]:
    """What a worker used at its highest and what it can have, in bytes, and whose memory that is."""
    above = sample.high_water - sample.tree  # what the samples, taken between two steps, do not see
    if sample.cgroup_limit is not None and sample.cgroup_used is not None:
        return sample.cgroup_used + above, sample.cgroup_limit, "that the cgroup allows"
    return sample.high_water, sample.tree + sample.ram_total - sample.ram_used, "that the host can give"
