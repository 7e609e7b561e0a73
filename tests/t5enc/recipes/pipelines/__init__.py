"""diffusers' own encoding code, run with a tiny encoder and none of a pipeline's other parts."""
