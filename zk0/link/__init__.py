"""The coordinator's side of a federation: keys, SuperLink and gate, who is registered, the courier."""
