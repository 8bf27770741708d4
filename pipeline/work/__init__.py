"""Workers and their crew: who trains which trial, and what becomes of it when something dies."""
