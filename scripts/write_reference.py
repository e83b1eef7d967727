"""The reference of the public names, docs/reference.md, from their docstrings: python scripts/write_reference.py"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matchcut
from matchcut import matching, metrics

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
HEAD = """# Reference

Every public name, from its docstring (`python scripts/write_reference.py` writes this page). Frames are RGB, uint8,
(H, W, 3); label maps uint8 (H, W): 0 background, 1-254 objects, 255 unknown; tensors (B, C, H, W).
"""
PLAINER = (
    (r"\b(?:[a-z_]+\.)+(?=\w)", ""),
    (r"ndarray\[.*?, dtype\[(\w+)\]\]", r"NDArray[\1]"),
    (r"<[^<>]*(?:<\w+>[^<>]*)?>", "..."),
)
"""What becomes of types and defaults in a signature: no modules, no addresses."""


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for module in (matchcut, matching, metrics):
        parts.append(f"## {module.__name__}\n\n{inspect.getdoc(module)}\n")
        for name in sorted(module.__all__, key=str.lower):
            value = getattr(module, name)
            if not isinstance(value, ModuleType):
                parts += entry(name, value)
    return "\n".join(parts)


def entry(name: str, value: Any) -> Iterator[str]:
    """One public name: its signature, its docstring, its fields and its methods."""
    yield f"### {name}\n"
    if not callable(value):
        yield f"`{value!r}`\n"
        return
    if not getattr(value, "_is_protocol", False) and value is not matchcut.MatchcutError:
        yield f"```py\n{name}{signature(value)}\n```\n"
    yield prose(value)
    if dataclasses.is_dataclass(value):
        yield from (f"- `{one}`: {about}" for one, about in attributes(value).items())
        yield ""
    for method, function in vars(value).items() if inspect.isclass(value) else ():
        kind = function.__func__ if isinstance(function, classmethod) else function
        if method.startswith("_") or not (inspect.isfunction(kind) or isinstance(kind, property)):
            continue
        if isinstance(kind, property):
            yield f"**`.{method}`** {prose(kind)}"
        elif inspect.getdoc(kind):
            yield f"```py\n.{method}{signature(kind)}\n```\n\n{prose(kind)}"


def signature(value: Any) -> str:
    """How it is called, an argument a line where that is long."""
    text = inspect.signature(value)
    chosen = [one for one in text.parameters.values() if one.name not in ("self", "cls")]
    short = str(text.replace(parameters=chosen)).replace("'", '"')
    for long, name in PLAINER:
        short = re.sub(long, name, short)
    if len(short) <= 100:
        return short
    inner, _, answer = short[1:].rpartition(")")
    return "(\n    " + re.sub(r", (?=(?:\*|\w+:|\w+=|/))", ",\n    ", inner) + f",\n){answer}"


def attributes(value: Any) -> dict[str, str]:
    """The fields of a dataclass that have a docstring below them, by name."""
    found = re.findall(r'^    (\w+): [^\n]*?\n    """(.*?)"""', inspect.getsource(value), re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def prose(value: Any) -> str:
    """A docstring as Markdown: its sections (Args:, Returns:, ...) as lists."""
    lines: list[str] = []
    for line in (inspect.getdoc(value) or "").splitlines():
        inside = line.startswith("    ")
        if re.fullmatch(r"[A-Z]\w+:", line):
            lines += [f"*{line}*", ""]
        elif inside and (item := re.match(r"    ([\w, ]+): (.*)", line)) and not line.startswith("     "):
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(line.removeprefix("    ").rstrip() if inside else line)
    text = "\n".join(lines)
    return re.sub(r"`[^`]*`|<(?=[a-z])", lambda it: r"\<" if it[0] == "<" else it[0], text) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
