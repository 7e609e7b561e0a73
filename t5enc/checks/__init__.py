"""How near, how fast, how sound: an encoder held against transformers, a pipeline, a clock."""
