"""Looking at models: their cost, and later their behaviour."""
