"""Counted block-sparse attention for transformers models and for arrays of your own, its tuning and its evaluation.

docs/library.md maps the tuning guide's chapter "use it in your own code" onto this module line by line.
"""

from ._native import ArgumentError, Error, FormatError, NotSupportedError, OutOfMemoryError, main, plain, program, set_threads
from .core import CHECK, CHOOSE, HELD_OUT, Ledger, Model, Policy, attention, predict, tune_layer
from .report import Database, Report, eval

__version__ = plain("sg_version").decode()

_TRANSFORMERS = ("patch", "unpatch", "load", "save", "extract", "tune", "ledger", "policy")


def __getattr__(name):
    if name in _TRANSFORMERS:  # what needs torch and transformers
        from . import models

        return getattr(models, name)
    raise AttributeError(f"module sparsegauge has no {name}")


def __dir__():
    return sorted([*globals(), *_TRANSFORMERS])
