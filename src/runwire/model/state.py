"""The state of a run: a class of the agent's author, made from the run's input and kept as JSON between nodes.

Dataclasses and msgspec Structs are read and written by msgspec, pydantic's models and dataclasses by pydantic. All of
them run code of their author, which may raise anything: here it becomes one of two errors with a bounded code.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar, get_origin, get_type_hints

import msgspec
import msgspec.inspect

from runwire.errors import InvalidRequest, StateRefused
from runwire.model.names import class_name
from runwire.model.state_shape import complete, exceeds, field_names, same, undeclared

S = TypeVar("S")

_SAID_MAX: Final = 5
_SAID_CHARS: Final = 200


class StateType(Generic[S]):
    """The state of an agent. Two representations: an object that nodes change in place, and its JSON."""

    def __init__(self, of: type[S]) -> None:
        """Raises whatever the class raises when it is looked at; `state_problems` names what does not fit."""
        self.of = of
        pydantic = _is_pydantic(of)
        self._codec: _Msgspec | _Pydantic = _Pydantic(of) if pydantic else _Msgspec(of)

    def from_input(self, data: bytes) -> S:
        """The state a run begins with, from the JSON of its input. Raises InvalidRequest (`invalid_input`).

        The detail names fields and rules. It has nothing of the text of an exception of the author's code.
        """
        try:
            made: S = self._codec.decode_input(data)
        except BaseException as error:  # noqa: BLE001  # the author's checks may raise anything, SystemExit included
            raise InvalidRequest(f"input: {_why(self._codec, error, self.of)}", code="invalid_input") from None
        return made

    def from_signal(self, data: bytes) -> S:
        """The data of a signal. Raises InvalidRequest (`invalid_signal`).

        The detail says where and which rule, and quotes no value and no key that the schema does not name.
        """
        try:
            made: S = self._codec.decode_input(data)
        except BaseException as error:  # noqa: BLE001  # see from_input
            raise InvalidRequest(f"data: {_where(self._codec, error, self.of)}", code="invalid_signal") from None
        return made

    def check_signal(self, data: bytes) -> None:
        """As `from_signal`, for a signal that is sent now: a dataclass refuses keys that it does not declare."""
        made = self.from_signal(data)
        try:
            place = None if isinstance(self._codec, _Pydantic) else undeclared(msgspec.json.decode(data), made)
        except BaseException:  # noqa: BLE001  # a property of an object of user code
            place = None
        if place is not None:
            raise InvalidRequest(f"data: Object contains unknown field - at `{place}`", code="invalid_signal")

    def json_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of what it reads; None where the class has none to show."""
        try:
            shown: dict[str, Any] = self._codec.json_schema()
            msgspec.json.encode(shown)
        except BaseException:  # noqa: BLE001  # see from_input
            return None
        return shown

    def restore(self, data: bytes) -> S | None:
        """The state of a checkpoint; None when it does not fit the class any more."""
        try:
            restored: S = self._codec.decode(data)
        except BaseException:  # noqa: BLE001  # see from_input
            return None
        return restored

    def save(self, state: object, *, at_most: int) -> tuple[bytes, S]:
        """The JSON of a state, and the state as it comes back from that.

        Raises StateRefused: `state_too_large`, before anything of that size is made, or `bad_state` for one that is no
        JSON, no longer of its class, or not the same when it comes back.
        """
        try:
            data = b"" if exceeds(state, at_most) else self._codec.encode(state)
            if data and len(data) <= at_most:
                back: S = self._codec.decode(data)
                if bool(back == state) or same(back, state):
                    return data, back
        except BaseException:  # noqa: BLE001  # whatever a node put there is asked to compare and to encode itself
            raise StateRefused("bad_state") from None
        raise StateRefused("bad_state" if 0 < len(data) <= at_most else "state_too_large")


class _Msgspec:
    def __init__(self, of: type) -> None:
        self._of = of
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(of)
        self._complete = any(map(_leaves_defaults, _types_in(msgspec.inspect.type_info(of))))

    def decode(self, data: bytes) -> Any:
        state = self._decoder.decode(data)
        if self._complete:
            complete(state)
        return state

    decode_input = decode
    encode = staticmethod(msgspec.json.encode)

    def json_schema(self) -> Any:
        return msgspec.json.schema(self._of)

    def where(self, error: BaseException) -> str | None:
        said = self.why(error)
        return None if said is None else unquoted(said)

    def why(self, error: BaseException) -> str | None:
        # With a cause it is the text of an exception of the author's own.
        if isinstance(error, msgspec.ValidationError) and error.__cause__ is None:
            return str(error)[:_SAID_CHARS]
        return None


class _Pydantic:
    def __init__(self, of: type) -> None:
        from pydantic import TypeAdapter  # noqa: PLC0415  # whoever has such a class has imported it

        self._adapter: Any = TypeAdapter(of)

    def decode(self, data: bytes) -> Any:
        return self._adapter.validate_json(data, by_alias=False, by_name=True)

    def decode_input(self, data: bytes) -> Any:
        return self._adapter.validate_json(data)

    def encode(self, state: object) -> bytes:
        # Its warnings would quote values.
        encoded: bytes = self._adapter.dump_json(state, by_alias=False, round_trip=True, warnings="error")
        return encoded

    def json_schema(self) -> Any:
        return self._adapter.json_schema()

    def why(self, error: BaseException) -> str | None:
        from pydantic import ValidationError  # noqa: PLC0415  # see above

        if not isinstance(error, ValidationError):
            return None
        found = error.errors(include_url=False, include_context=False, include_input=False)
        said = [
            f"{'.'.join(map(str, one['loc'])) or 'input'}: {one['type']}"[:_SAID_CHARS] for one in found[:_SAID_MAX]
        ]
        return "; ".join(said)

    def where(self, error: BaseException) -> str | None:
        from pydantic import ValidationError  # noqa: PLC0415  # see above

        if not isinstance(error, ValidationError):
            return None
        found = error.errors(include_url=False, include_context=False, include_input=False)[:_SAID_MAX]
        known = set(_properties(self._adapter.json_schema()))
        places = (
            "".join(
                f".{part}" if part in known else "[...]" if isinstance(part, str) else f"[{part}]"
                for part in one["loc"]
            )
            for one in found
        )
        return "; ".join(f"{one['type']} - at `${place}`" for one, place in zip(found, places, strict=True))


def _why(codec: _Msgspec | _Pydantic, error: BaseException, of: type) -> str:
    try:
        said = codec.why(error)
    except BaseException:  # noqa: BLE001  # an error whose parts cannot be told is as good as one without
        said = None
    return said if said is not None else f"refused by {_type_name(of)} ({class_name(type(error))})"


def _where(codec: _Msgspec | _Pydantic, error: BaseException, of: type) -> str:
    try:
        said = codec.where(error)
    except BaseException:  # noqa: BLE001  # see _why
        said = None
    return said if said is not None else f"refused by {_type_name(of)} ({class_name(type(error))})"


def _properties(schema: Any) -> Iterator[str]:
    """The names of all fields that a JSON schema declares."""
    level = [schema]
    while level:
        for one in level:
            if isinstance(one, dict) and isinstance(one.get("properties"), dict):
                yield from one["properties"]
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]


def unquoted(said: str) -> str:
    """msgspec's words about a value without what they quote of it: an unknown field, a value of no enumeration."""
    words, at, place = said.partition(" - at `")
    if not words.startswith(("Expected ", "Object missing required field ")):
        words = re.split(r"['`\"]", words, maxsplit=1)[0].strip() or "refused"
    return words + at + place


def state_problems(of: object) -> list[str]:
    """Why a class cannot be a state, as far as that shows before a run; what does not show is refused run by run."""
    try:
        return list(_problems(of))
    except BaseException as error:  # noqa: BLE001  # looking at a class runs code of its author
        return [f"the state cannot be looked at: {class_name(type(error))}"]


def schema_problems(of: object) -> list[str]:
    """Why a type cannot be the schema of a signal's data: it may be any that JSON brings back, frozen ones included."""
    try:
        return list(_schema_problems(of))
    except BaseException as error:  # noqa: BLE001  # looking at a class runs code of its author
        return [f"the schema cannot be looked at: {class_name(type(error))}"]


def _schema_problems(of: Any) -> Iterator[str]:
    name = _type_name(of)
    try:
        if not getattr(of, "__pydantic_complete__", True):
            of.model_rebuild()
        StateType(of)
    except BaseException as error:  # noqa: BLE001  # annotations are code
        yield f"the schema {name} cannot be read from JSON: {class_name(type(error))}: {_first_line(error)}"
        return
    foreign = () if _is_pydantic(of) else dict.fromkeys(_foreign_types(of))
    yield from (f"the schema {name} has a field of type {one}, which does not come back from JSON" for one in foreign)


def _problems(of: Any) -> Iterator[str]:
    if (problem := _of_wrong_kind(of)) is not None:
        yield problem
        return
    name = _type_name(of)
    try:
        if not getattr(of, "__pydantic_complete__", True):
            of.model_rebuild()  # raises for an annotation that leads nowhere
        state: StateType[Any] = StateType(of)
    except BaseException as error:  # noqa: BLE001  # annotations are code
        yield f"the state {name} cannot be kept as JSON: {class_name(type(error))}: {_first_line(error)}"
        return
    foreign = () if _is_pydantic(of) else dict.fromkeys(_foreign_types(of))
    yield from (f"the state {name} has a field of type {one}, which does not come back from JSON" for one in foreign)
    if not foreign:
        yield from _problems_of_defaults(state, name)


def _of_wrong_kind(of: Any) -> str | None:
    if _is_mapping(of):
        return None
    if not isinstance(of, type):
        kind = class_name(type(of))
        hint = f"; pass the class {kind}" if _has_fields(type(of)) else ""
        return f"the state must be a class, not an object of type {kind}{hint}"
    if not _has_fields(of):
        return f"the state {class_name(of)} must be a dataclass, a msgspec.Struct, a pydantic model or a dict"
    if _is_frozen(of):
        return f"the state {class_name(of)} is frozen, but nodes change their state in place"
    return None


def _foreign_types(of: Any) -> Iterator[str]:
    for kind in _types_in(msgspec.inspect.type_info(of)):
        if isinstance(kind, msgspec.inspect.CustomType) and kind.cls is not object:  # any value is an object
            yield class_name(kind.cls if isinstance(kind.cls, type) else type(kind.cls))


def _problems_of_defaults(state: StateType[Any], name: str) -> Iterator[str]:
    try:
        made = state.from_input(b"{}")
    except InvalidRequest:
        return  # it needs an input, and that is what its checks are for
    try:
        state.save(made, at_most=2**62)
    except StateRefused:
        culprits = _do_not_come_back(state.of, made)
        fields = f": {', '.join(culprits)}" if culprits else ""
        yield f"the state {name} with its defaults is not the same when it comes back from JSON{fields}"


def _do_not_come_back(of: Any, made: object) -> list[str]:
    """The fields whose value alone already changes on its way through JSON."""
    hints = get_type_hints(of, include_extras=True)
    culprits = []
    for name in () if _is_mapping(of) else field_names(of) or ():
        value = getattr(made, name)
        try:
            kept = same(msgspec.json.decode(msgspec.json.encode(value), type=hints[name]), value)
        except BaseException:  # noqa: BLE001  # it is the culprit, whatever it raises
            kept = False
        if not kept:
            culprits.append(str(name))
    return culprits


def _has_fields(of: type) -> bool:
    return (
        dataclasses.is_dataclass(of)
        or (issubclass(of, msgspec.Struct) and of is not msgspec.Struct)
        or hasattr(of, "__attrs_attrs__")
        or _is_pydantic(of)
    )


def _is_mapping(of: Any) -> bool:
    """`dict`, `dict[str, ...]` or a TypedDict."""
    origin = get_origin(of) or of
    return isinstance(origin, type) and issubclass(origin, dict)


def _is_pydantic(of: Any) -> bool:
    return isinstance(of, type) and any("__pydantic_validator__" in vars(base) for base in of.__mro__[:-1])


def _is_frozen(of: type) -> bool:
    params = getattr(of, "__dataclass_params__", None)
    struct = getattr(of, "__struct_config__", None)
    model = getattr(of, "model_config", None)
    return bool(
        getattr(params, "frozen", False)
        or getattr(struct, "frozen", False)
        or (isinstance(model, dict) and model.get("frozen"))
    )


def _types_in(root: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """Every type within a type, each class once."""
    seen: set[type] = set()
    todo: list[Any] = [root]
    while todo:
        kind = todo.pop()
        if (cls := getattr(kind, "cls", None)) is not None:
            if cls in seen:
                continue
            seen.add(cls)
        yield kind
        for name in getattr(kind, "__struct_fields__", ()):
            inner = getattr(kind, name)
            for one in inner if isinstance(inner, tuple) else (inner,):
                if isinstance(one, msgspec.inspect.Field):
                    todo.append(one.type)
                elif isinstance(one, msgspec.inspect.Type):
                    todo.append(one)


def _leaves_defaults(kind: Any) -> bool:
    """Whether msgspec leaves defaults at the class, so that an instance made from JSON does not have them itself."""
    return isinstance(kind, msgspec.inspect.DataclassType) and "__dict__" in dir(kind.cls)


def _type_name(of: Any) -> str:
    return class_name(of if isinstance(of, type) else get_origin(of) or type(of))


def _first_line(error: BaseException) -> str:
    try:
        return str(error).partition("\n")[0][:_SAID_CHARS]
    except BaseException:  # noqa: BLE001  # an exception's text is code, too
        return ""
