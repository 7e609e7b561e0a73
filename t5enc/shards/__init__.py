"""Shards as they lie on disks and in stores: where each row's bytes are, and reading them."""
