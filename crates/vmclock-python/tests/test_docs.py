# SPDX-License-Identifier: MIT OR Apache-2.0
"""What editors show (the stub) and what `help()` shows (the native module) is the same text."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Union

from vmclock import _native

STUB = Path(__file__).parents[1] / "python/vmclock/_native.pyi"


def documented(node: Union[ast.Module, ast.ClassDef], prefix: str = "") -> dict[str, str]:
    found = {}
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            text = ast.get_docstring(child)
            if text is not None and child.name != "NativeEvents":
                found[prefix + child.name] = text
        if isinstance(child, ast.ClassDef):
            found.update(documented(child, f"{child.name}."))
    return found


def test_the_stub_and_the_module_say_the_same() -> None:
    texts = documented(ast.parse(STUB.read_text()))
    assert len(texts) > 50
    for name, text in texts.items():
        thing: object = _native
        for part in name.split("."):
            thing = getattr(thing, part)
        assert inspect.getdoc(thing) == text, name
