"""What the memory backend keeps its jobs in."""
