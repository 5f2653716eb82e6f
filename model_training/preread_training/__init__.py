"""Training of Preread: data sets, networks, measures, bundles."""
