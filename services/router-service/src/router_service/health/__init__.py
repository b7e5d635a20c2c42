"""Active health probes of backends. Must not know requests or make routing decisions."""
