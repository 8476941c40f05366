"""Every read of a resume through every errno, one at a time: `python -m benchmarks.hiccups`."""
