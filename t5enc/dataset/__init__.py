"""Stored embeddings in a training loop: rows at random from shards, by byte range, as padded batches."""
