"""Question-answer documents made from seed documents."""

from typing import Annotated, Literal

from pydantic import Field

from reprise.recipe.fields import Count, Settings, Share

DISCIPLINES = (
    "mathematics",
    "physics",
    "chemistry",
    "biology",
    "astronomy",
    "earth science",
    "medicine",
    "computer science",
    "general education",
)


class Generator(Settings):
    """What writes the answers."""

    kind: Literal["transformers", "openai"] = "transformers"
    """`transformers`: in this process. `openai`: any OpenAI-compatible server."""
    model: str | None = None
    """Model directory or name; null takes the base model of the recipe (only with `transformers`)."""
    base_url: str | None = None
    """Address of the server, such as http://127.0.0.1:8000/v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is never written anywhere."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.7
    """Sampling temperature."""
    top_p: Share = 1.0
    """Nucleus of the sampling."""
    max_tokens: Count = 2048
    """Longest answer in tokens."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Requests in one batch (`transformers`), or in flight (`openai`)."""


class Synthesis(Settings):
    """Seeds in, checked question-answer documents out."""

    enabled: bool = False
    """Make synthetic documents. They enter the mixture as the source `synthetic`."""
    disciplines: list[str] = list(DISCIPLINES)
    """The disciplines of the science questions."""
    requests: Count = 0
    """How many question-answer pairs are asked for."""
    languages: list[str] = ["en"]
    """Languages of the questions."""
    generator: Generator = Generator()
    min_answer_tokens: Count = 20
    """Shorter answers are dropped."""
    error_rate: Share = 0.0
    """Share of the final answers replaced by wrong ones, for studies of data quality."""
    allow_code_execution: bool = False
    """Run generated programs against their tests in a sandbox."""
