"""What a step gave that is done by many clients: results and failures, in client order."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from zk0.errors import ClientError, FailureCause
from zk0.work.records import ClientFailure, ClientResult, ClientTask


@dataclass(frozen=True)
class Outcomes:
    """Who did the work, and who did not; adds up over several steps."""

    results: list[ClientResult] = field(default_factory=list)
    """Of those who did, in the order of the work."""
    failures: list[ClientFailure] = field(default_factory=list)
    """Of the others."""

    def __add__(self, other: "Outcomes") -> "Outcomes":
        return Outcomes(self.results + other.results, self.failures + other.failures)


def sorted_out(
    work: Sequence[ClientTask], ends: Sequence[object], *, all_needed: bool, but: FailureCause | None = None
) -> Outcomes:
    """Sort what came of each piece of work: its result, or the error that it ended with.

    Args:
        work: the pieces.
        ends: of each.
        all_needed: nothing goes without any of them.
        but: a cause that costs a client its own part all the same.

    Raises:
        ClientError: one failed and all are needed.
        BaseException: any other error, as it is: no client's fault.
    """
    found = Outcomes()
    for item, end in zip(work, ends, strict=True):
        if isinstance(end, ClientResult):
            found.results.append(end)
        elif isinstance(end, ClientError) and (not all_needed or end.cause == but):
            found.failures.append(_failure(item, end))
        else:
            assert isinstance(end, BaseException)
            raise end
    return found


def _failure(item: ClientTask, error: ClientError) -> ClientFailure:
    return ClientFailure(
        client=item.client, server_round=item.server_round, kind=item.kind, cause=error.cause, message=str(error)
    )
