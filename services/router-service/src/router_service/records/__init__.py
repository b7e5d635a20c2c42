"""What is remembered of each request, how it is told to people, and how it is decided again."""
