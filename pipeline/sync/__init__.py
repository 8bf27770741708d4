"""What tracking is told: the ledger and the outputs as MLflow runs, and when they are sent."""
