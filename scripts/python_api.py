"""The reference of the Python API as Markdown, from signatures and docstrings. `make docs` writes it."""  # noqa: INP001  # a script

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import griffe

import runwire
from runwire import client, errors
from runwire.errors import RunwireError

ROOT: Final = Path(__file__).parents[1]
GROUPS: Final = (
    (
        "Writing agents",
        (
            "runwire.model.graph",
            "runwire.model.declaration",
            "runwire.model.waits",
            "runwire.model.content",
            "runwire.errors.runs.NodeFailed",
        ),
    ),
    ("Starting and following runs", ("runwire.client",)),
    ("Answers", ("runwire.client.results",)),
    ("Events and states", ("runwire.model",)),
    ("Errors", ("runwire", "runwire.client.problems", "runwire.client.stream.StreamBroken")),
)
"""The groups, each with the places of its names. A name belongs to the longest place that it begins with."""
LINE: Final = 88
GIVEN: Final = ("Download", "ManyRunsStream", "MixedStream", "PartStream", "PartWriter", "RunStream")
"""Classes whose objects calls return: readers never make one."""
OF_THE_WIRE: Final = {"EventTooLong", "RunPage", "ServerEvent", "SseParser"}
"""Names of `runwire.client` that its own modules share."""
_PAGE: Final = re.compile(r"\bdocs/([\w/-]+)\.md\b")


@dataclass(frozen=True, slots=True)
class Public:
    """A public name and its declaration."""

    name: str
    found: griffe.Object

    @property
    def group(self) -> str:
        places = [(place, title) for title, all_places in GROUPS for place in all_places]
        return max((place, title) for place, title in places if f"{self.found.path}.".startswith(f"{place}."))[1]


def python_api() -> str:
    """The reference of all public names, in groups, and the table of the other errors.

    Raises ValueError when a name of the client is not public, or has no docstring.
    """
    if hidden := set(client.__all__) - OF_THE_WIRE - set(dir(runwire)):
        raise ValueError(f"add to __all__ in src/runwire/__init__.py: {', '.join(sorted(hidden))}")
    public = list(public_names())
    parts: list[str] = []
    for title, _ in GROUPS:
        parts.append(f"## {title}")
        for one in public:
            if one.group == title:
                parts += _described(one)
    parts += ["### More errors", "All are from `runwire.errors`.", _errors_table({one.name for one in public})]
    return "\n\n".join(parts)


def public_names() -> Iterator[Public]:
    """Everything in `dir(runwire)` but the version, where it is declared."""
    package = griffe.load("runwire", search_paths=[ROOT / "src"], allow_inspection=False, resolve_aliases=True)
    for name in dir(runwire):
        if not name.startswith("__"):
            found = package[name]
            target = found.final_target if isinstance(found, griffe.Alias) else found
            assert isinstance(target, griffe.Object)  # noqa: S101  # an alias is followed to its end
            yield Public(name, target)


def _described(public: Public) -> Iterator[str]:
    found = public.found
    yield f"### {public.name}"
    if isinstance(found, griffe.Class):
        if _is_enum(found):
            yield _doc(found)
            yield "\n".join(f"- `{public.name}.{name}` is `{member.value}`" for name, member in _values(found))
            return
        if (made := _constructor(found)) is not None and public.name not in GIVEN:
            yield _signature(public.name, made)
        yield _doc(found)
        if table := _attributes(found):
            yield table
        for name, method in _members(found).items():
            if isinstance(method, griffe.Function) and not name.startswith("_"):
                yield f"#### {public.name}.{name}"
                yield _signature(name, method)
                yield _doc(method)
    elif isinstance(found, griffe.Function):
        yield _signature(public.name, found)
        yield _doc(found)
    else:
        value = f" = {found.value}" if isinstance(found, griffe.Attribute) and found.value is not None else ""
        yield _python(public.name + value)
        yield _doc(found)


def _members(found: griffe.Class) -> dict[str, object]:
    """Members of the class, then those of its bases in its own package: readers see one class."""
    package = found.package.path + "." + found.path.split(".")[1]
    bases = [base for base in found.mro() if base.path.startswith(f"{package}.")]
    own: dict[str, object] = dict(found.members)
    for base in bases:
        own |= {name: member for name, member in base.members.items() if name not in own}
    return own


def _constructor(found: griffe.Class) -> griffe.Function | None:
    made = _members(found).get("__init__")
    return made if isinstance(made, griffe.Function) else None


def _is_enum(found: griffe.Class) -> bool:
    return any(str(base).endswith("Enum") for base in found.bases)


def _values(found: griffe.Class) -> list[tuple[str, griffe.Attribute]]:
    return [(name, one) for name, one in found.members.items() if isinstance(one, griffe.Attribute) and name.isupper()]


def _signature(name: str, function: griffe.Function) -> str:
    parameters = list(_parameters(function))
    before = "class " if function.name == "__init__" else "async def " if "async" in function.labels else "def "
    result = "" if function.name == "__init__" or function.returns is None else f" -> {function.returns}"
    line = f"{before}{name}({', '.join(parameters)}){result}"
    if len(line) > LINE:
        line = f"{before}{name}(\n    " + ",\n    ".join(parameters) + f",\n){result}"
    return _python(line)


def _python(code: str) -> str:
    quoted = code.replace("'", '"')
    return f"```python\n{quoted}\n```"


def _parameters(function: griffe.Function) -> Iterator[str]:
    named_only = False
    for one in function.parameters:
        if one.name == "self":
            continue
        if one.kind is griffe.ParameterKind.keyword_only and not named_only:
            named_only = True
            yield "*"
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(one.kind, "")
        named_only = named_only or stars == "*"
        annotation = f": {one.annotation}" if one.annotation is not None else ""
        default = f" = {_value(function, one.default)}" if one.default is not None and not stars else ""
        yield f"{stars}{one.name}{annotation}{default}"


def _value(function: griffe.Function, default: object) -> object:
    """The default, or the value of the constant that it names."""
    constant = function.module.members.get(str(default))
    return constant.value if isinstance(constant, griffe.Attribute) and constant.value is not None else default


def _attributes(found: griffe.Class) -> str:
    """A table of the public attributes; empty when there are none."""
    rows = []
    for name, one in found.members.items():
        if not isinstance(one, griffe.Attribute) or name.startswith("_") or _is_of_class(one):
            continue
        annotation = one.annotation or _annotation_of_parameter(found, one)
        default = one.value if "instance-attribute" in one.labels and "class-attribute" in one.labels else None
        shown = str(annotation or "").replace("|", "\\|")
        meaning = " ".join(one.docstring.value.split()) if one.docstring else ""
        kind = f"`{shown}`" if shown else ""
        rows.append((f"`{name}`", kind, f"`{default}`" if default is not None else "", meaning))
    if not any(kind or meaning for _, kind, _, meaning in rows):
        return ""
    columns = [(0, "attribute"), (1, "type"), (2, "default"), (3, "meaning")]
    kept = [(at, title) for at, title in columns if at < 2 or any(row[at] for row in rows)]
    lines = ["| " + " | ".join(title for _, title in kept) + " |", "|" + "---|" * len(kept)]
    lines += ["| " + " | ".join(row[at] for at, _ in kept) + " |" for row in rows]
    return "\n".join(lines)


def _is_of_class(one: griffe.Attribute) -> bool:
    """Whether it declares the class, as the `kind` of an error does."""
    return one.name in ("kind", "facts", "others", "exit_code") or "ClassVar" in str(one.annotation)


def _annotation_of_parameter(found: griffe.Class, one: griffe.Attribute) -> object:
    constructor = _constructor(found)
    if constructor is None or one.value is None or str(one.value) not in constructor.parameters:
        return None
    return constructor.parameters[str(one.value)].annotation


def _doc(found: griffe.Object) -> str:
    """The docstring with its paragraphs. Raises ValueError for a name that has none."""
    if found.docstring is None:
        raise ValueError(f"{found.path} is public and has no docstring")
    return _PAGE.sub(r"[\1](../\1.md)", found.docstring.value.strip())


def _errors_table(described: set[str]) -> str:
    lines = ["| type | code | attributes | meaning |", "|---|---|---|---|"]
    for name in errors.__all__:
        error = getattr(errors, name)
        if name in described or not (isinstance(error, type) and issubclass(error, RunwireError)):
            continue
        facts = ", ".join(f"`{fact.attribute}`" for fact in error.facts)
        own = vars(error).get("__doc__") or ("kind" in vars(error) and error.kind.title) or ""
        meaning = re.sub(r"\s+", " ", own.partition("\n\n")[0]).strip().replace("|", "\\|")
        lines.append(f"| `{name}` | `{error.code}` | {facts} | {meaning} |")
    return "\n".join(lines)
