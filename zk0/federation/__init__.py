"""The algorithm, without Prefect."""
