from .llm import LLM
from .sampling_params import SamplingParams

__version__ = "0.33.0"
__all__ = ["LLM", "SamplingParams", "TokensPrompt"]


class TokensPrompt(dict):
    """As the TypedDict."""

    def __init__(self, *, prompt_token_ids: list[int]) -> None:
        super().__init__(prompt_token_ids=prompt_token_ids)
