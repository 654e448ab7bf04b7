"""docs/reference against the code: every public name with its signature, every setting with default and range."""

import ast
import importlib
import inspect
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

import events
from events.conf import Config
from events.publishing import RESERVED_TYPES

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
PYTHON = (REFERENCE / "python.md").read_text()

# A signature stands in a block that begins with the module that the name is imported from.
SIGNATURES = re.findall(r"^### (\w+)\n\n```python\n# (events[\w.]*)\n(.*?)^```$", PYTHON, re.DOTALL | re.MULTILINE)
SETTINGS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PYTHON.split("\n## Settings\n")[1], re.MULTILINE))


def signature(node: ast.AST) -> str:
    """A function or a class, without its body: arguments with defaults and annotations, and what is returned."""
    match node:
        case ast.ClassDef(body=body):
            constructors = [item for item in body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            return f"class {', '.join(map(signature, constructors))}"
        case ast.FunctionDef(args=args, returns=returns) | ast.AsyncFunctionDef(args=args, returns=returns):
            args.kw_defaults = [default and without_marker(default) for default in args.kw_defaults]
            args.defaults = [without_marker(default) for default in args.defaults]
            result = f" -> {ast.unparse(returns)}" if returns else ""
            return f"{'async ' * isinstance(node, ast.AsyncFunctionDef)}({ast.unparse(args)}){result}"
    raise TypeError(node)


def without_marker(default: ast.expr) -> ast.expr:
    return ast.Constant(...) if ast.unparse(default) == "_NOT_GIVEN" else default


@pytest.mark.parametrize(("name", "module", "stated"), SIGNATURES, ids=[name for name, _, _ in SIGNATURES])
def test_a_signature_is_that_of_the_code(name: str, module: str, stated: str) -> None:
    [document] = ast.parse(stated).body
    assert document.name == name  # type: ignore[attr-defined]
    found = getattr(importlib.import_module(module), name)
    [code] = ast.parse(inspect.getsource(found)).body
    assert isinstance(code, ast.ClassDef) == isinstance(document, ast.ClassDef)
    if not isinstance(document, ast.ClassDef) or len(document.body) > 1 or "__init__" in stated:
        assert signature(document) == signature(code)


def test_every_public_name_is_there() -> None:
    assert {name for name, module, _ in SIGNATURES if module == "events"} == set(events.__all__)


def test_every_exception_is_where_it_is_said_to_be() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(events[\w.]*)` \|", PYTHON, re.MULTILINE)
    assert len(rows) >= 6
    for name, module in rows:
        assert issubclass(getattr(importlib.import_module(module), name), Exception)


def test_the_settings_are_those_of_the_code_in_its_order() -> None:
    assert list(SETTINGS) == [key.name for key in fields(Config)]


@pytest.mark.parametrize("key", fields(Config), ids=lambda key: key.name)
def test_a_setting_has_the_default_and_the_range_of_the_code(key: Field[Any]) -> None:
    default, accepted, _ = SETTINGS[key.name].split(" | ", 2)
    assert key.default is not MISSING
    assert default == shown(key.default)
    if "range" in key.metadata:
        low, high = key.metadata["range"]
        assert accepted == f"{low:,} to {high:,}"


def shown(value: Any) -> str:
    """A default as the table writes it."""
    match value:
        case str():
            return f'`"{value}"`'
        case ():
            return "none"
        case float():
            return f"{value:,.15g}"
        case _:
            return f"{value:,}"


def test_the_reserved_types_are_those_of_the_code() -> None:
    [named] = re.findall(r"usual one\. (.*?) are reserved", (REFERENCE / "http.md").read_text(), re.DOTALL)
    assert set(re.findall(r"`(\w+)`", named)) == RESERVED_TYPES
