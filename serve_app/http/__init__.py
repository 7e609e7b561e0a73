"""Around the application: keys, limits, heads and metrics."""
