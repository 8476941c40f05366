"""LeRobot datasets: open, split, statistics, checks, copies."""
