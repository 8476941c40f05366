"""The Docker executor: `executor.kind = "docker"`. Imported only where a run asks for it."""
