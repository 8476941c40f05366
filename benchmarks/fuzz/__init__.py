"""Every file of a run and every word of a client, mutated: `python -m benchmarks.fuzz --mutations 10000 --seed 1`."""
