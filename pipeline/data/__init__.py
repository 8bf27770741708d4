"""Where images come from, how foreign files are read, and the prepared arrays as tensors."""
