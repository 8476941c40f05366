"""What a fit is expected to need, and the micro-batch that fits into what there is."""

from loguru import logger

from zk0.config import RunConfig
from zk0.errors import ConfigError
from zk0.memory import client_limits
from zk0.memory.usage import gib
from zk0.work.records import Record


class MemoryEstimate(Record):
    """What a fit is expected to use, from one small step that was tried; bytes."""

    fixed: int
    """Weights, gradients, optimizer, and the process itself."""
    per_frame: int
    """Activations of one frame."""
    budget: int
    """What one fit may use."""
    whose: str
    """Whose memory that is, for messages."""

    def fits(self, size: int) -> bool:
        """Whether so many frames at once are expected to fit."""
        return self.fixed + size * self.per_frame <= self.budget


def fitting_micro_batch(config: RunConfig, estimate: MemoryEstimate | None) -> int | None:
    """The largest halving of the config's micro-batch that is expected to fit; None where it fits as it is.

    Raises:
        ConfigError: not even one frame at once is expected to fit; says what is needed and what is there.
    """
    whole = config.training.micro_batch_size or config.training.batch_size
    if estimate is None or estimate.fits(whole):
        return None
    size = whole
    while size and not estimate.fits(size):
        size //= 2
    if not size:
        raise ConfigError(
            f"memory: a fit needs about {gib(estimate.fixed + estimate.per_frame)} even with one frame at once, and "
            f"may use {gib(estimate.budget)} {estimate.whose}; free some memory, lower executor.max_parallel, or raise "
            "memory.soft_limit, or executor.docker.mem_limit where it is set"
        )
    logger.warning(
        "{} frames at once are expected to need {}, and a fit may use {} {}: it will be done in micro-batches of {}",
        *(whole, gib(estimate.fixed + whole * estimate.per_frame), gib(estimate.budget), estimate.whose, size),
    )
    return size


def expectation(config: RunConfig, estimate: MemoryEstimate) -> client_limits.Note:
    """What an estimate before the run says of a client, as a note beside what experience will show."""
    whole = config.training.micro_batch_size or config.training.batch_size
    need = gib(estimate.fixed + whole * estimate.per_frame)
    return client_limits.note(
        whole, 0, f"estimate before the run: needs {need}, of {gib(estimate.budget)} {estimate.whose}"
    )
