"""The coordinator's side of a federation: the courier between a run's mailbox and the nodes, and how it is started."""
