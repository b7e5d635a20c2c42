"""Decision records: storage, explanation for people, and replay."""
