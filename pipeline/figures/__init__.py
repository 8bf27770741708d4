"""Figures and report of a finished sweep: arrays and tables in, PNG bytes and one HTML page out."""
