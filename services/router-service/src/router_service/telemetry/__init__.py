"""Every metric, label, log field and span of the router; decides nothing and is never waited for."""
