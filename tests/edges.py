"""Every field of a record at its edges, by its type: a new field is covered by itself."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import inspect

INTS = (
    -(1 << 63) - 1,
    -(1 << 63),
    -1,
    0,
    1,
    (1 << 31),
    (1 << 32),
    (1 << 60),
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    1 << 64,
)
TEXTS = ("", "\0", "\ud800", "\udcff", "é\U0010ffff", "a\nb", "x" * 300)
LENGTH_TRIED_MAX = 70_000  # longer ones are no edge of a field, but of a record

Variant = tuple[str, Any]  # which field, and the struct with it at an edge


def variants(struct: Any) -> Iterator[Variant]:
    """A struct with each of its fields, and of those in them, at each edge."""
    return _variants(struct, inspect.type_info(type(struct)), "")


def _variants(struct: Any, kind: inspect.Type, path: str) -> Iterator[Variant]:
    assert isinstance(kind, inspect.StructType)
    for field in kind.fields:
        where = f"{path}.{field.encode_name}"
        value = getattr(struct, field.encode_name)
        for name, edge in of_type(field.type, value, where):
            changed = struct.__copy__()
            msgspec.structs.force_setattr(changed, field.encode_name, edge)
            yield name, changed


def of_type(kind: inspect.Type, value: Any, where: str) -> Iterator[Variant]:
    """What a field of that type may be at its edges. value: as it is now."""
    match kind:
        case inspect.IntType():
            bounds = {bound + by for bound in (kind.ge, kind.le) if bound is not None for by in (-1, 0, 1)}
            for number in sorted({*INTS, *bounds}):
                yield f"{where}={number}", number
        case inspect.FloatType():
            for number in (-1.0, 0.0, 1e-9, 1.0, 1e9, float("inf"), float("-inf"), float("nan")):
                yield f"{where}={number}", number
        case inspect.BytesType():
            most = min(kind.max_length or LENGTH_TRIED_MAX, LENGTH_TRIED_MAX)
            for raw in (b"", b"\0", b"/", b"a/b", b".", b"\xff", bytes(32), b"b" * most, b"b" * (most + 1)):
                yield f"{where}={raw[:4]!r}*{len(raw)}", raw
        case inspect.StrType():
            for text in TEXTS:
                yield f"{where}={text[:4]!a}*{len(text)}", text
        case inspect.BoolType():
            yield from ((f"{where}={flag}", flag) for flag in (False, True))
        case inspect.EnumType():
            assert issubclass(kind.cls, enum.IntEnum)
            yield from ((f"{where}={member}", member) for member in kind.cls)
            yield from ((f"{where}={number}", number) for number in (-1, 99))
        case inspect.LiteralType():
            yield from ((f"{where}={word}", word) for word in (*kind.values, "another", ""))
        case inspect.NoneType():
            yield f"{where}=None", None
        case inspect.DecimalType():
            for decimal in (Decimal(-1), Decimal(1 << 90), Decimal("NaN"), Decimal("Infinity")):
                yield f"{where}={decimal}", decimal
        case inspect.UnionType():
            for one in kind.types:
                yield from of_type(one, value, where)
        case inspect.StructType():
            if isinstance(value, kind.cls):
                yield from _variants(value, kind, where)
            else:
                yield from _variants(_made(kind), kind, where)
        case inspect.ListType() | inspect.VarTupleType():
            make = list if isinstance(kind, inspect.ListType) else tuple
            yield f"{where}=[]", make(())
            for name, item in of_type(kind.item_type, value[0] if value else None, f"{where}[0]"):
                yield name, make((item,))
            if kind.max_length is not None and kind.max_length <= LENGTH_TRIED_MAX:
                item = next(of_type(kind.item_type, value[0] if value else None, ""))[1]
                yield f"{where}*{kind.max_length + 1}", make((item,) * (kind.max_length + 1))
        case inspect.TupleType():
            for at, item_type in enumerate(kind.item_types):
                base = list(value) if value else [_default(other) for other in kind.item_types]
                for name, item in of_type(item_type, base[at], f"{where}[{at}]"):
                    yield name, (*base[:at], item, *base[at + 1 :])
        case inspect.NamedTupleType():
            made = (
                value
                if isinstance(value, kind.cls)
                else kind.cls(*(_default(f.type) for f in kind.fields if f.required))
            )
            for field in kind.fields:
                for name, item in of_type(field.type, getattr(made, field.name), f"{where}.{field.name}"):
                    yield name, made._replace(**{field.name: item})
        case inspect.DictType():
            yield f"{where}={{}}", {}
            for text in TEXTS:
                yield f"{where}[{text[:4]!a}]", {text: "value"}
                yield f"{where}[k]={text[:4]!a}", {"k": text}
        case _:
            raise AssertionError(f"no edges are known for {kind} of {where}")


def _made(kind: inspect.StructType) -> Any:
    """A struct with the plainest value in each field that needs one."""
    return kind.cls(*(_default(field.type) for field in kind.fields if field.required))


def _default(kind: inspect.Type) -> Any:
    match kind:
        case inspect.IntType():
            return max(kind.ge or 0, 0)
        case inspect.BytesType():
            return b""
        case inspect.StrType():
            return "x"
        case inspect.BoolType():
            return False
        case inspect.EnumType():
            return next(iter(kind.cls))
        case inspect.StructType():
            return _made(kind)
        case inspect.UnionType():
            return _default(kind.types[0])
    raise AssertionError(f"no value is known for {kind}")
