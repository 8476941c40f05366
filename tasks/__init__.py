"""The steps of a round as Prefect tasks: retries, names, what the UI shows. No algorithm lives here.

Task runs bear no tags: for every new set of tags Prefect starts a service that asks for slots, about 2 s each.
"""

import os

_DEFAULTS = {
    # The default budget of 62 s kills a flow whose server is away for two minutes.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    # Leases in memory leak a slot when the holder and the server both die.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # A start that waits for the end of the run before looks again after this; 30 s by default.
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "10",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Results are never persisted; without this a stray one would land in the user's home whatever PREFECT_HOME says.
    "PREFECT_TASKS_DEFAULT_PERSIST_RESULT": "false",
    # Flows and tasks speak through zk0's log; Prefect's own lines would tear the live view.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
for _key, _value in _DEFAULTS.items():
    os.environ.setdefault(_key, _value)
