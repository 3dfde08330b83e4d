"""What scripts/bench is made of: the filesystems it compares, what it measures on them, and the table."""
