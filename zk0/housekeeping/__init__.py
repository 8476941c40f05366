"""What runs leave on a disk, and how it is removed."""
