"""The training engine: one loop from one CPU process to many nodes."""
