"""Archives split into shards, over Procrastinate."""
