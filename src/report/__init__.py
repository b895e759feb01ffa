"""What users see: tables, figures and report pages."""
