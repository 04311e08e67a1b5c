"""The paper's recipe and the rows of its ablation table, a TOML file each: `specs-data build --recipe paper`."""
