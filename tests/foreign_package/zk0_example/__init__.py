"""A strategy, a policy and an executor that are not of zk0."""
