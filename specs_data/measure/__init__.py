"""Measures: of answers, of verifiers."""
