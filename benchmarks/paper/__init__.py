"""What is worked out on paper, without a run."""
