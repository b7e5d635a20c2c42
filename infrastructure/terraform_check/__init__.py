"""Checks Terraform code where no provider can be fetched: against the provider's schema, as data."""
