"""Models that answer requests, in this process or behind a server; every answer is saved in a journal before use."""
