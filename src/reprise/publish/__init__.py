"""The trained model published: merged with a chat model, as GGUF, with a model card, on the Hub."""
