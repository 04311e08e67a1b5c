"""Out into the world: merge, export, push."""
