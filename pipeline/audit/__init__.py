"""Recomputes what follows from a sweep's records, without training: each check yields findings.

A finding is one line that names the file and what in it does not follow.

    book.py      the outputs of a sweep, read once
    digests.py   files, records and the space belong together
    data.py      the prepared arrays are what their manifest states
    epochs.py    one trial: sums, learning rates, early stopping, the epoch that it keeps
    search.py    proposals, prunings, budgets, tables, ranking
    winner.py    candidates, intervals, the winner
    figures.py   metrics.json and what the report states of it
    outputs.py   all of these, in order
    stores.py    the ledger states the same
"""
