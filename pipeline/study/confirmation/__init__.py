"""Candidates on fresh seeds: who is trained how far, how they compare, who wins."""
