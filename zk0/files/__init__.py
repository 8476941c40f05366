"""Files that survive a crash (`atomic`) and files that somebody else wrote (`untrusted`)."""
