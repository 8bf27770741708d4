"""The words in which results are stored and told: states, kinds of studies, keys of records."""
