"""The trained model merged with a chat model, which keeps what both were taught."""
