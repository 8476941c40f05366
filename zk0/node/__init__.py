"""An owner's side of a federation: the node, its rules and its ledger."""
