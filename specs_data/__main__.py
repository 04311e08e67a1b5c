"""`python -m specs_data` is `specs-data`."""

from specs_data.cli import main

main()
