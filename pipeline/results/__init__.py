"""What results are stored as: states, kinds of studies, keys of records, a stage's record."""
