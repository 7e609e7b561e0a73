"""Prompts that occur more than once in a whole job: found before any of it is encoded, so that each is encoded once."""
