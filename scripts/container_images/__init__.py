"""Container images: what ours are built from, and the digests that `versions.yaml` keeps of all of them."""
