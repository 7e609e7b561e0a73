"""What runs in Ray's actors: reading and tokenizing units, encoding them, and committing their shards."""
