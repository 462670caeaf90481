"""The trained model handed on: merged with a chat model, as GGUF, with a model card, on the Hub."""
