"""The tree of errors: what can go wrong, in one place, with the exit code that the command line gives for it."""

from types import TracebackType
from typing import ClassVar, Literal, Self, get_args

FailureCause = Literal["out_of_memory", "timeout", "bad_data", "lost", "refused", "error"]
"""Why a client's work ended without a result; `lost` is a process, container or node that died without a word,
`refused` what a node's owner does not allow."""
CAUSES: tuple[FailureCause, ...] = get_args(FailureCause)


class Zk0Error(Exception):
    """Base of every error that zk0 raises on purpose; its text is meant for the user and names the remedy."""

    exit_code: int = 1
    repeats: ClassVar[bool] = False
    """Whether the same start meets it again, so that nobody should start by himself."""


class BadInputError(Zk0Error):
    """Something that the user gave cannot be used; raised before any training starts, and nothing on disk changed."""

    exit_code = 2
    repeats = True


class ConfigError(BadInputError):
    """A config key is unknown, missing, of the wrong type or out of range."""


class DatasetError(BadInputError):
    """A dataset is missing, broken, too short, or does not fit the policy."""


class PolicyError(BadInputError):
    """A policy cannot be loaded, or its config does not fit."""


class RunNameError(BadInputError):
    """A run name is in use by another config, unknown, or held by another process."""


class UnforeseenError(Zk0Error):
    """A library, or zk0 itself, raised what nobody foresaw: its own words, its class and the place are in the text."""

    repeats = True


class UnforeseenInputError(UnforeseenError, BadInputError):
    """The same while that was looked at which the user gave: see `BadInputError`."""

    exit_code = 2


class PassingError(Zk0Error):
    """The same of a library that a network or a device left alone: the next start may end otherwise."""


class QuorumError(Zk0Error):
    """Fewer clients than `federation.min_train_clients` gave an update: the round cannot be aggregated."""

    exit_code = 3


class AbsentClientsError(QuorumError):
    """Some client gave no update in any round of a run; `final/` is written, from the others' alone."""

    repeats = True


class DivergedError(Zk0Error):
    """What a strategy made of a round's updates, or keeps, is not finite: there is nothing that could be committed."""

    exit_code = 3
    repeats = True


class StorageError(Zk0Error):
    """The run directory cannot be written or read: no space, no permission, an I/O error, damaged files."""

    exit_code = 4


class DamageError(StorageError):
    """A file is gone, or not what was written: what it held must be made anew. Any other fault of a disk may pass."""


class LinkError(Zk0Error):
    """A federation's link does not answer, or is not the one that it should be."""


class EndedError(Zk0Error):
    """A person ended the run elsewhere, such as in Prefect's pages; it stands still until a person goes on with it."""

    exit_code = 130


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
        return self.cause != "bad_data" and not self.repeats

    def __reduce__(self) -> tuple[type["ClientError"], tuple[FailureCause, str]]:
        """Pickle by both arguments: Exception's own way would lose `cause` between processes."""
        return (type(self), (self.cause, str(self)))


class HopelessError(ClientError):
    """One client's work that would end so again: by bad data, or by an error of a library that nothing heals.

    Args:
        cause: see `ClientError`; of `bad_data`, which the user gave, the exit code is that of bad input.
        message: one line for the user.
    """

    repeats = True

    def __init__(self, cause: FailureCause, message: str) -> None:
        super().__init__(cause, message)
        self.exit_code = BadInputError.exit_code if cause == "bad_data" else ClientError.exit_code


class RefusedError(HopelessError):
    """What a node's owner does not allow, of cause `refused`: node, rule and what was asked are in the text."""


class QuarantineError(HopelessError):
    """A client that sits out all further rounds, because no remedy is left."""


DURING = "during: "
"""What the notes begin with that `during` leaves."""


class during:  # noqa: N801 - a statement's word
    """`with during("dataset 'kitchen', timestamps"):` - what a library raises there is told with these words before it.

    Our own errors name what they are about themselves.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if error is not None and not isinstance(error, Zk0Error):
            error.add_note(f"{DURING}{self._what}")


def text_of(error: BaseException) -> str:
    """What an error says of itself; of one that cannot even say it, what it was made of."""
    try:
        return str(error)
    except Exception as fault:  # noqa: BLE001 - whatever a library's __str__ does, its error is told
        made_of = ", ".join(item for item in error.args if isinstance(item, str))
        return made_of or f"its text cannot be told, for that raises {type(fault).__name__}"


def first_line(error: BaseException) -> str:
    """What an error says first, for a message that has a remedy of its own; its class where it says nothing."""
    return (text_of(error).strip().splitlines() or [type(error).__name__])[0]
