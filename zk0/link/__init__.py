"""The coordinator's side of a federation: keys, the SuperLink and the gate before it, who is registered."""
