"""Benchmarks: every figure that README and docs state comes from one of these commands."""
