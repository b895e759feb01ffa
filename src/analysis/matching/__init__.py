"""Which of a program's cuts a model realises, and what that makes of its programs."""
