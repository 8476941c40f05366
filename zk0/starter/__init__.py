"""A first config, proposed from recordings."""
