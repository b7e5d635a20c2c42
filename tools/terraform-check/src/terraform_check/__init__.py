"""Checks Terraform code without downloading a provider, against the provider's schema as data."""
