"""Every metric, label, log field and span of the router. Makes no decisions, and no request waits for it."""
