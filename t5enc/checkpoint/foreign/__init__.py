"""What other projects write: their modules around an encoder, and their names of its tensors."""
