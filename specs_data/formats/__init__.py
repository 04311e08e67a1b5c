"""The response formats that are shipped, a TOML file each; `specs_data.format.load_format` is the door."""
