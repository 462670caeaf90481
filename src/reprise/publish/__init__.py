"""The trained model published: with a model card, as GGUF, on the Hub."""
