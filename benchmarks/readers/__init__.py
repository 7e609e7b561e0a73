"""Readers of stored embeddings side by side, and what they read."""
