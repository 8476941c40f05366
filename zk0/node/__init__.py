"""The owner's side of a federation: Flower's messenger, the worker behind it, and what leaves."""
