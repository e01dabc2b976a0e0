"""Pretraining objectives: noise functions over ragged NumPy batches, plans of examples, collators and losses.

What the package offers is listed in `public.py` and imported when it is first asked for. So what needs NumPy only, the
finding of words say, is imported without torch: processes that tokenize start ten times as fast.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *  # noqa: F403
    from .public import __all__ as __all__


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec(f"{__name__}.{name}"):  # asked for before it is imported
        return import_module(f".{name}", __name__)
    value = getattr(import_module(".public", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
