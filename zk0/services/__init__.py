"""Programs of others that are kept running, and files that only their owner may read."""
