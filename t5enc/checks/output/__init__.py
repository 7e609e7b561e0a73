"""Whether an output's rows are what its job says: a sample of them, encoded again."""
