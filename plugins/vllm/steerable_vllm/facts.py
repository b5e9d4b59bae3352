"""What a vLLM server says of its steering at `GET /v1/steering`."""

from __future__ import annotations

from pydantic import BaseModel


class ServerFacts(BaseModel):
    """Written by the server's half, read by the client's.

    Attributes:
        vectors: Name to `fingerprint_id` of what is served.
        structured_outputs: vLLM's backend for grammars.
        max_model_len: Tokens that prompt and answer may have together.
    """

    vectors: dict[str, str]
    structured_outputs: str = "auto"
    max_model_len: int | None = None

    @property
    def follows_grammars(self) -> bool:
        """Whether constraints can be handed on: this backend reads the grammars that are ours."""
        return self.structured_outputs == "guidance"
