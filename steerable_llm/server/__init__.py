"""The model as a server with OpenAI's interface: `steerable serve`."""
