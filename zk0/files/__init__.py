"""Files that survive a crash (`atomic`) and files that somebody else wrote (`untrusted`)."""

FORK_SERVER_OF = "ZK0_FORK_SERVER_OF"
"""Environment variable of a fork server, and of its workers: the id of the process that starts it."""
