"""Options in bundles: dataclasses of options, which several commands share.

A command takes a bundle as a parameter with a dataclass for its type. The command line shows the fields.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

__all__ = ["spread"]


def spread(command: Callable[..., None], *more: type) -> Any:
    """`command`, with a parameter for each option of its bundles, in the place where the bundle was.

    Args:
        more: bundles whose options come last, and which the command itself is not told of.
    """
    signature = inspect.signature(command, eval_str=True)
    bundles: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.annotation)
    }

    @functools.wraps(command)
    def spread_out(**given: Any) -> None:
        told = {name: given[name] for name in signature.parameters.keys() - bundles.keys()}
        for name, bundle in bundles.items():
            told[name] = bundle(**{each.name: given[each.name] for each in fields(bundle)})
        command(**told)

    parameters = [
        each
        for name, parameter in signature.parameters.items()
        for each in (_options(bundles[name]) if name in bundles else [parameter])
    ]
    parameters += [each for bundle in more for each in _options(bundle)]
    described: Any = spread_out  # a function has no such attribute, says its type
    described.__signature__ = inspect.Signature(
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    )
    return described


def _options(bundle: Any) -> Iterator[inspect.Parameter]:
    # Told of the module: else callbacks that are written as lambdas would not find its names.
    hints = get_type_hints(bundle, vars(sys.modules[bundle.__module__]), include_extras=True)
    for each in fields(bundle):
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(each),
            annotation=hints[each.name],
        )


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()
