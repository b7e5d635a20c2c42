"""Container images: builds of our images, and the digests of all images in `versions.yaml`."""
