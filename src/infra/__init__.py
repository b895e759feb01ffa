"""Files, errors, signals, processes, progress: what has nothing to do with models."""
