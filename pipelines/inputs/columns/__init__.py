"""Columns of the input: which are kept, in which types, and how their values get there."""
