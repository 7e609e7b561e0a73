"""What people read outputs with."""
