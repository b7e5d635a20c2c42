"""HTTP/1.1 to the backends: addresses, connections, keep-alive. The only code that connects to an engine."""
