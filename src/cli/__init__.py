"""The `algomatch` command."""
