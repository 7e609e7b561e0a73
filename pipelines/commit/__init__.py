"""What is written and when it counts: shards, manifest, log, and the protocol between them."""
