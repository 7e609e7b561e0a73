"""What reuse of earlier outputs costs: `python -m benchmarks.reuse`."""

from benchmarks.reuse.figures import main

__all__ = ["main"]
