"""Outputs from caches that trainers wrote, so that nobody has to encode again."""
