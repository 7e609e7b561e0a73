"""What every benchmark has in common: the texts and checkpoints, and the machine."""
