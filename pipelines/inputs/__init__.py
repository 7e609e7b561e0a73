"""What is read: files, their footers, and which columns are kept."""
