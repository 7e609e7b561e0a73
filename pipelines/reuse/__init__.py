"""Embeddings of earlier outputs, found by content key and copied instead of computed."""
