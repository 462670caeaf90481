"""Drop documents that contain benchmark questions."""
