"""The tree of errors: what can go wrong, in one place, with the exit code that the command line gives for it."""

from typing import ClassVar, Literal, get_args

FailureCause = Literal["out_of_memory", "timeout", "bad_data", "lost", "error"]
"""Why a client's work ended without a result; `lost` is a process, container or node that died without a word."""
CAUSES: tuple[FailureCause, ...] = get_args(FailureCause)


class Zk0Error(Exception):
    """Base of every error that zk0 raises on purpose; its text is meant for the user and names the remedy."""

    exit_code: ClassVar[int] = 1


class BadInputError(Zk0Error):
    """Something that the user gave cannot be used; raised before any training starts, and nothing on disk changed."""

    exit_code = 2


class ConfigError(BadInputError):
    """A config key is unknown, missing, of the wrong type or out of range."""


class DatasetError(BadInputError):
    """A dataset is missing, broken, too short, or does not fit the policy."""


class PolicyError(BadInputError):
    """A policy cannot be loaded, or its config does not fit."""


class RunNameError(BadInputError):
    """A run name is in use by another config, unknown, or held by another process."""


class QuorumError(Zk0Error):
    """Fewer clients than `federation.min_train_clients` gave an update: the round cannot be aggregated."""

    exit_code = 3


class DivergedError(Zk0Error):
    """What a strategy made of a round's updates, or keeps, is not finite: there is nothing that could be committed."""

    exit_code = 3


class StorageError(Zk0Error):
    """The run directory cannot be written or read: no space, no permission, an I/O error, damaged files."""

    exit_code = 4


class ClientError(Zk0Error):
    """One client's work ended without a result.

    Args:
        cause: what kind of death it was; decides the remedy.
        message: one line for the user.
    """

    def __init__(self, cause: FailureCause, message: str) -> None:
        super().__init__(message)
        self.cause = cause

    @property
    def retriable(self) -> bool:
        """Whether another attempt can end otherwise: bad data stays bad, everything else may pass."""
        return self.cause != "bad_data"

    def __reduce__(self) -> tuple[type["ClientError"], tuple[FailureCause, str]]:
        """Pickle by both arguments: Exception's own way would lose `cause` between processes."""
        return (type(self), (self.cause, str(self)))


class QuarantineError(ClientError):
    """A client that sits out all further rounds, because no remedy is left."""

    @property
    def retriable(self) -> bool:
        """Never: every remedy was tried."""
        return False


def first_line(error: BaseException) -> str:
    """What an error says first, for a message that has a remedy of its own; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
