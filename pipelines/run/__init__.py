"""One run of a job, from its plan to the last shard."""
