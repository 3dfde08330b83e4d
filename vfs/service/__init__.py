"""What a daemon does in the background, whatever its doors are. Knows trio, and no door."""
