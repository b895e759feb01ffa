"""What a person looks at: summary table and figures."""
