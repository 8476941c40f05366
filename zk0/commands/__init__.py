"""What stands behind a command of `zk0` that needs no Prefect: each light to import, and its work inside."""
