"""The typed configuration: its schema, how it is composed, and how runs and commands are named."""
