"""Settings of a model that answers requests: for labels and for synthesis."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from reprise.recipe.fields import AnyPath, Count, KeyVariable, ServerUrl, Settings, Share


class Generator(Settings):
    """The model that writes the answers."""

    path_fields: ClassVar[frozenset[str]] = frozenset({"model"})

    kind: Literal["transformers", "openai", "vllm"] = "transformers"
    """`transformers`: in this process. `openai`: any OpenAI-compatible server. `vllm`: vLLM's engine, in process."""
    model: AnyPath | None = None
    """Model directory or name; null: the base model of the recipe (only with `transformers` and `vllm`)."""
    base_url: ServerUrl | None = None
    """Address of the server, such as http://127.0.0.1:8000/v1."""
    api_key_env: KeyVariable = "OPENAI_API_KEY"
    """Environment variable that contains the key; the key itself is never written anywhere."""
    temperature: Annotated[float, Field(ge=0.0, le=100.0)] = 0.7
    """Sampling temperature; 0: always the most probable token."""
    top_p: Share = 1.0
    """Nucleus sampling: probability mass of the tokens that are sampled from."""
    max_tokens: Annotated[Count, Field(ge=1)] = 2048
    """Longest answer in tokens."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Requests per batch (`transformers`), or in flight (`openai`)."""
    timeout_s: Annotated[float, Field(gt=0.0, le=1e6)] = 600.0
    """Longest time in seconds for one attempt at a request (`openai`)."""
    max_retries: Annotated[int, Field(ge=0, le=100)] = 6
    """Further attempts after 408, 409, 429, 5xx, a broken connection or an answer that is not valid (`openai`)."""
    requests_per_minute: Count = 0
    """Most requests that are started per minute (`openai`); 0: no limit."""
    input_price: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of a million prompt tokens, in any currency."""
    output_price: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of a million generated tokens, in the same currency."""
    max_cost: Annotated[float, Field(ge=0.0)] = 0.0
    """The stage stops before the answers for this recipe cost more than this; 0: no limit."""
    max_failed_share: Share = 0.02
    """A larger share of requests without an answer stops the stage; existing answers are kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of `transformers`."""
    engine_options: dict[str, Any] = {}
    """Arguments for vLLM's engine, such as `tensor_parallel_size: 4`."""

    @model_validator(mode="after")
    def _server_is_named(self) -> "Generator":
        if self.kind == "openai" and (self.base_url is None or self.model is None):
            raise ValueError("kind `openai` needs `base_url` and `model`")
        if self.max_cost and not (self.input_price or self.output_price):
            raise ValueError("max_cost needs input_price or output_price")
        return self
