"""Runs it."""

from benchmarks.reuse.figures import main

main()
