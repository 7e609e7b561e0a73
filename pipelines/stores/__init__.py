"""Where outputs lie: a disk, an object store, or what fsspec knows; one interface, and trying again what passes."""
