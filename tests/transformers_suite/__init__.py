"""transformers' own model tests, with the drop-ins in the place of its encoders."""
