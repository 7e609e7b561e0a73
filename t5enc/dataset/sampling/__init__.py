"""Which rows come in which batch: orders, batches and draws as functions of a seed and an epoch."""
