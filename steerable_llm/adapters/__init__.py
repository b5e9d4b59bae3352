"""The model as LangChain and as LlamaIndex know it; one file each, loaded only when asked for."""
