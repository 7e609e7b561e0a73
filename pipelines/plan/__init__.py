"""What is to be done: units of rows, and the tasks that carry them."""
