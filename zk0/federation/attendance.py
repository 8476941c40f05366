"""Whether every client took part in a run that has come to its end."""

from loguru import logger

from zk0.errors import AbsentClientsError
from zk0.metrics.attendance import absences, unexcused
from zk0.runs.store import RunStore


def check(store: RunStore) -> None:
    """Say who gave no update in any round, and end as no success where `federation.may_miss` does not allow it.

    Args:
        store: the run, with all its rounds committed.

    Raises:
        AbsentClientsError: names the clients, and why they failed.
    """
    config = store.config
    found = absences([client.name for client in config.clients], store.read_metrics())
    for absence in found:
        logger.warning("{}{}", absence, f" ({absence.why})" if absence.why else "")
    if missing := unexcused(found, config.federation.may_miss):
        names = ", ".join(f'"{absence.client}"' for absence in missing)
        reasons = "\n".join(f"{absence} ({absence.why})" for absence in missing)
        raise AbsentClientsError(
            f"{reasons}\nfinal/ is written, from the others alone. Mend what ended their fits and start a new run, or, "
            f"if they may be missing, say so to this one by `--set 'federation.may_miss=[{names}]'`"
        )
