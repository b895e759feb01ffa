"""Run folders, checkpoints, kept results, and batches of runs."""
