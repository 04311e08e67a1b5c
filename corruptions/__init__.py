"""The built-in format-corruption operators, one file each. A third party's are found the same way."""
