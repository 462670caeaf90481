"""Models that answer requests: in this process, behind a server, with every answer in a journal before it counts."""
