"""Real runs, killed at chosen and at random moments: `python -m benchmarks.chaos --kills 100 --runs 20 --seed 1`."""
