"""What a run looks like to a person: charts, drawn from the run directory alone."""
