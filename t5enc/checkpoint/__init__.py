"""Weights on disk: finding, reading, checking, converting and hashing them."""
