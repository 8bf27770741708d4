"""The verbs of the command line that are no stages, a file each, and what they share."""
