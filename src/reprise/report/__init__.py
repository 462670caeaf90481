"""Numbers -> one HTML file, and the same numbers as JSON."""
