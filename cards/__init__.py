"""Templates (jinja2) of dataset cards, model cards and the report."""
