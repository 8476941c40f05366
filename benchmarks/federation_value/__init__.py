"""Does federation help? Four owners of an arm, four parts of a bench: `python -m benchmarks.federation_value`."""
