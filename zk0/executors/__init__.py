"""Where work runs."""

FORK_SERVER_OF = "ZK0_FORK_SERVER_OF"
"""Environment variable of a fork server: the id of the process that starts it."""
