"""What a person does to a run, by the pages or a command line, and what is left of it: `python -m benchmarks.acts`."""
