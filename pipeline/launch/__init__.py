"""Ways to start worker processes; they know nothing of what the workers do."""
