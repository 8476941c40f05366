"""Loguru set up once; log files that outlive a full disk."""
