"""Models whose answer is known: what a measure is compared with."""
