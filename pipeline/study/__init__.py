"""The search: what is tried, what is pruned, who works on what. Knows no torch."""
