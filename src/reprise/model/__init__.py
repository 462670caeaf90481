"""A causal language model: load, save, negative log-likelihood of token rows."""
