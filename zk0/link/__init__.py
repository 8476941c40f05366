"""The coordinator's side of a federation: keys, SuperLink and gate, who is registered, and the courier to the nodes."""
