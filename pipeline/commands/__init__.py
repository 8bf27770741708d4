"""A file for each verb of the command line; what it needs beside it begins with its name."""
