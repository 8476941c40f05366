"""Prefect flows: how tasks make a run. `flows.federated_training` reads like the algorithm."""

FLOW = "federated-training"
"""Prefect's name of the flow of a run."""
ROUND = "round"
"""Prefect's name of the flow of a round."""
