"""The HTTP interface: inference endpoint, probes, metrics and debug pages. Makes no routing decision."""
