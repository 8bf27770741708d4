"""Benchmarks: what the README claims, measured by commands that anybody can run again."""
