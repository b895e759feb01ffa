"""Which edges of a model matter, and what they carry."""
