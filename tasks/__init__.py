"""Core functions of zk0 as Prefect tasks: retries, names, what the UI shows. No algorithm lives here."""
