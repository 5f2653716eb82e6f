"""The Preread worker: watches a share, assesses each new radiograph, commits the result."""
