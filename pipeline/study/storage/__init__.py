"""The ledger: trials' parts in a database, who works on them, and what workers are told."""
