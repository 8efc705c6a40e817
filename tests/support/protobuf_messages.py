"""Classes of the ``protobuf`` package for messages that a test declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

#: Fields by name: their number, and their type, after a star if they are repeated.
Fields = Mapping[str, tuple[int, str]]


def message_class(package: str, messages: Mapping[str, Fields], name: str) -> Any:
    """Return the class of one of the messages of a package."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", package=package, syntax="proto2"
    )
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, declared) in fields.items():
            field = message.field.add(name=field_name, number=number)
            repeated, kind = declared.startswith("*"), declared.removeprefix("*")
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in messages:
                field.type, field.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
