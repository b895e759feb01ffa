"""The run folder, the callbacks that fill it, and Weights & Biases."""
