"""The contract of one piece of a client's work: the task, its lock, its result, its failure, who can run it."""
