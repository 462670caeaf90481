from tests.synthesis.conftest import server, tiny_model  # noqa: F401
