"""What Reprise knows about languages: their codes, and a pack of settings for each."""
