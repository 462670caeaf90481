"""Open the generator that a recipe names."""

from reprise.generators.generator import Generator
from reprise.recipe.generator import Generator as GeneratorSettings
from reprise.recipe.model import Model


def open_generator(settings: GeneratorSettings, model: Model, setting: str) -> Generator:
    """Open the generator that the recipe names.

    Args:
        settings: settings of the generator.
        model: base model of the recipe, used if the generator names none.
        setting: path of the settings in the recipe, for errors, such as `synthesis.generator`.

    Raises:
        UserError: a package is missing, or the model cannot be loaded.
    """
    if settings.kind == "openai":
        from reprise.generators.openai_server import OpenAIServer

        return OpenAIServer(settings, setting)
    if settings.model is not None:
        model = Model(path=settings.model)
    if settings.kind == "vllm":
        from reprise.generators.vllm_engine import VllmEngine

        return VllmEngine(settings, model, setting)
    from reprise.generators.transformers_engine import InProcess

    return InProcess(settings, model, setting)
