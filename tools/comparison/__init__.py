"""Comparison of runs on the same test documents: a module per subject, for compare_runs.py."""
