"""Studies: their identity, their trials, what is tried, who works on what, who wins.

    storage/       the ledger: parts, leases, workers, and the database that holds them
    search/        what is tried next, what a search begins with, pruning, forecasts
    confirmation/  the race of candidates on fresh seeds, and the winner

Beside them is what stands above (`watch`, `budget`, `export`) or is made of a study (`tables`,
`ranking`, `receipt`, `restore`), and `identity`, which says what is comparable.
"""
