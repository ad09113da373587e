"""What a trained network wastes: each module yields Findings."""
