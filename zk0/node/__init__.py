"""An owner's side of a federation: the node, its worker and messenger, its rules and its ledger."""
