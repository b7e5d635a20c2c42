"""The tools that run from a checkout: local stack, cluster, deployment, images, tests, generated references."""
