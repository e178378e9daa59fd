"""qaicl: one LLM cluster out of a few machines."""

__version__ = "0.1.0"
