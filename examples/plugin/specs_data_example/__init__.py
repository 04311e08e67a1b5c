"""An operator, an engine and a verifier for specs-data."""
