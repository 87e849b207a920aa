"""musegen: compose music with Hugging Face models.

Importing this package makes transformers know what it adds: the task `pipeline("music-generation")`, the LSTM and the
music tokenizer of the Auto classes, and the names of the models that come with the package. It imports nothing heavy
itself: each is added as soon as the module of transformers that it is added to is imported, before or after.
"""

import importlib
import importlib.abc
import importlib.util
import sys

__version__ = "0.1.0"

# Module of transformers, and the one of this package that adds to it.
_ADDITIONS = {
    "transformers.models.auto.modeling_auto": "musegen.auto_classes",
    "transformers.models.auto.tokenization_auto": "musegen.tokenizer",
    "transformers.pipelines": "musegen.pipeline",
}


class _AddAfter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module of transformers as Python would, and adds to it once it is there."""

    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
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
        importlib.import_module(_ADDITIONS[self.name])


for _name, _addition in _ADDITIONS.items():
    if _name in sys.modules:
        importlib.import_module(_addition)
    elif not any(getattr(finder, "name", None) == _name for finder in sys.meta_path):
        sys.meta_path.insert(0, _AddAfter(_name))
