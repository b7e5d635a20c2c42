"""One request from its features to its record. Knows no server, no socket and no other request."""
