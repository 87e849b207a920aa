"""musegen: compose music with Hugging Face models."""

__version__ = "0.1.0"
