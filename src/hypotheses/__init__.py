"""Evidence, verdicts on H1 to H3, and groups over seeds: no HTML, no file access."""
