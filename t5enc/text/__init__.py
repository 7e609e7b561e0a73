"""Captions to token ids: tokenizers, what a recipe does to a text, and where a document's rows go."""
