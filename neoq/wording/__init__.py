"""What errors and logs say: advice, limits for texts, and no secrets."""
