"""What is to be done: files cut into units of rows."""
