"""The compiled reference, the learned architectures, and how they are trained."""
