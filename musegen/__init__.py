"""musegen: compose music with Hugging Face models.

Importing this package makes `transformers.pipeline("music-generation")` work, and imports nothing heavy itself: the
task is registered as soon as transformers' pipelines are imported, before or after.
"""

import importlib.abc
import importlib.util
import sys

__version__ = "0.1.0"

_PIPELINES = "transformers.pipelines"


class _RegisterAfter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds transformers' pipelines as Python would, and registers the task once they are there."""

    def find_spec(self, name, path=None, target=None):
        if name != _PIPELINES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        import musegen.pipeline  # noqa: F401


if _PIPELINES in sys.modules:
    import musegen.pipeline  # noqa: F401
elif not any(type(finder).__name__ == _RegisterAfter.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _RegisterAfter())
