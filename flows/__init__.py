"""Prefect flows: how tasks make a run. `flows.federated_training` reads like the algorithm."""
