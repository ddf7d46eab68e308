"""Options that a recovery takes from the one it is derived from."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints


def inherit_options(plugin: type[Any]) -> None:
    """Let the signature of a constructor that passes `**options` on name them all.

    So that those of the base class are listed, and checked before anything runs, like its own,
    which come first and take the place of those of the same name.
    """
    constructor: Any = plugin.__dict__.get("__init__")
    if constructor is None:
        return
    signature = inspect.signature(constructor)
    parameters = signature.parameters
    own = {name: each for name, each in parameters.items() if each.kind != each.VAR_KEYWORD}
    if len(own) == len(parameters):
        return
    base: Any = plugin.__mro__[1]
    more = {
        name: each
        for name, each in inspect.signature(base.__init__).parameters.items()
        if each.kind == each.KEYWORD_ONLY and name not in own
    }
    hints = get_type_hints(base.__init__) | get_type_hints(constructor)
    constructor.__annotations__ = {name: hints[name] for name in [*own, *more] if name in hints}
    constructor.__signature__ = signature.replace(parameters=[*own.values(), *more.values()])


def require_share(name: str, value: float) -> None:
    """Raise `ValueError` where an option is no share above zero and at most one."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} is a share, in (0, 1], given {value}")


def require_positive(name: str, value: float) -> None:
    """Raise `ValueError` where an option is not above zero."""
    if not value > 0:
        raise ValueError(f"{name} must be above zero, given {value}")
