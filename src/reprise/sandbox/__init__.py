"""Run untrusted programs in a confined child process."""
