"""The response formats that are shipped, a TOML file each."""
