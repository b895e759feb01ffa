"""What the command line and a notebook call: one function for each verb."""
