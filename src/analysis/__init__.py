"""All measures, as pure functions of bridges and inputs, and the registry of them."""
