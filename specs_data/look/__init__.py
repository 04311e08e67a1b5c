"""Looking at pairs: check, show, report."""
