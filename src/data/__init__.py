"""Programs, tasks, their inputs, and the batches made of them."""
