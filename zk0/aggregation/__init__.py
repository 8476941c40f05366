"""One round on the server as a pure function of the updates."""
