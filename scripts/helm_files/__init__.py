"""Files of charts whose home is elsewhere in the repository."""
