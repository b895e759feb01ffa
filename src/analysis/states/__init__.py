"""What each site of a model holds: the fewest named variables that are sufficient there."""
