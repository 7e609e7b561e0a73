"""What the command line does besides encoding."""
