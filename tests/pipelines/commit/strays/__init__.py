"""Files in an output that are no planned shards."""
