"""A preference dataset, ours or anybody's: its rows, Parquet files, manifest, card, and the difference of a pair."""
