"""Everything tried before anything of a run is written."""
