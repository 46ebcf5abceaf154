"""Benchmarks; ``python3 -m bench`` prints one line a figure. Not tests: they judge nothing."""
