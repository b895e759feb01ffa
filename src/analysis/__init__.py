"""Pure functions from bridges and inputs to values: every measure, and the table of them."""
