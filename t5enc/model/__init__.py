"""The encoder itself: what its weights compute, in which precision, packed, masked and compiled."""
