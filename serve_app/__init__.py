"""A T5 encoder as a service, and its clients."""
