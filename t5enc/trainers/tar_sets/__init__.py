"""Tars that follow others: the same names, the same keys in the same order, with embeddings in them."""
