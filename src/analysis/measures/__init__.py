"""What is measured at every checkpoint, and the registry of it."""
