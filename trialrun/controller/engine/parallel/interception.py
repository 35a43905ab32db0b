"""Takes the calls of one method of one object that the trial has made and goes on using."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Original = Callable[..., Any]
"""The object's own method."""


def intercept(item: Any, **handlers: Callable[..., Any]) -> None:
    """Gives an object a subclass of its class, in which some methods are replaced.

    The object stays the trial's own, ``isinstance`` holds, and its attributes, from which
    ``state_dict`` of a scheduler is made, are untouched.

    Args:
        item: The object; what an earlier call did to it is undone.
        handlers: For each method's name what is called in its place: with the object's own
            method, and with the arguments.
    """
    cls = _own_class(item)
    namespace: dict[str, Any] = {
        "__slots__": (),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_intercepted_class": cls,
    }
    for name, handler in handlers.items():
        namespace[name] = _method(cls, name, handler)
    item.__class__ = type(cls.__name__, (cls,), namespace)


def release(item: Any) -> None:
    """Undoes what ``intercept`` did to an object."""
    item.__class__ = _own_class(item)


def original(item: Any, name: str) -> Original:
    """Returns the object's own method, whatever is called in its place."""
    method: Original = getattr(_own_class(item), name).__get__(item)
    return method


def _own_class(item: Any) -> type:
    cls: type = getattr(type(item), "_intercepted_class", type(item))
    return cls


def _method(cls: type, name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    own = getattr(cls, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return handler(own.__get__(self), *args, **kwargs)

    return method
