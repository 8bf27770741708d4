"""What a search tries next, what it begins with, what it prunes, and how long it will take."""
