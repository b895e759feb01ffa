"""What each head attends to, when each neuron is on, and how much that explains."""
