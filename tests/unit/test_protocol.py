"""The protocol: its generated code is current, its style is buf's STANDARD, and it stays readable
for the clients of released versions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from cluster.proto.generate import RELEASED, ROOT, generate

SNAKE, PASCAL = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*"), re.compile(r"([A-Z][a-z0-9]*)+")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FileDescriptorSet]:
    pytest.importorskip("grpc_tools")
    target = tmp_path_factory.mktemp("generated")
    generate(target, target / "set")
    return target, FileDescriptorSet.FromString((target / "set").read_bytes())


def ours(found: FileDescriptorSet) -> list[FileDescriptorProto]:
    return [each for each in found.file if each.package.startswith("autoprune.")]


def test_what_is_generated_is_current(generated: tuple[Path, FileDescriptorSet]) -> None:
    fresh, here = (
        {x.relative_to(root): x.read_text() for x in root.rglob("*_pb2*.p*") if is_source(x)}
        for root in (generated[0], ROOT)
    )
    assert len(here) > 8
    assert here == fresh, "run: python -m cluster.proto.generate"


def is_source(path: Path) -> bool:
    return path.suffix in (".py", ".pyi")


def test_the_style_is_bufs_standard(generated: tuple[Path, FileDescriptorSet]) -> None:
    assert not [each for file in ours(generated[1]) for each in strays(file)]


def strays(file: FileDescriptorProto) -> Iterator[str]:
    """Yield what a file does otherwise than buf's STANDARD rules have it."""
    directory, _, name = file.name.rpartition("/")
    if file.package.replace(".", "/") != directory or not re.search(r"\.v[1-9]\d*$", file.package):
        yield f"{file.name}: package {file.package}"
    if not SNAKE.fullmatch(name.removesuffix(".proto")):
        yield f"{file.name}: file name"
    for message in file.message_type:
        yield from strays_of_message(message, file.name)
    for enum in file.enum_type:
        yield from strays_of_enum(enum, file.name)
    used: list[str] = []
    for service in file.service:
        if not (PASCAL.fullmatch(service.name) and service.name.endswith("Service")):
            yield f"{file.name}: service {service.name}"
        for method in service.method:
            if not PASCAL.fullmatch(method.name):
                yield f"{service.name}.{method.name}: name"
            if method.input_type != f".{file.package}.{method.name}Request":
                yield f"{service.name}.{method.name}: takes {method.input_type}"
            if method.output_type != f".{file.package}.{method.name}Response":
                yield f"{service.name}.{method.name}: returns {method.output_type}"
            used += [method.input_type, method.output_type]
    if len(set(used)) != len(used):
        yield f"{file.name}: messages of several methods"


def strays_of_message(message: DescriptorProto, where: str) -> Iterator[str]:
    if not PASCAL.fullmatch(message.name):
        yield f"{where}: message {message.name}"
    for field in message.field:
        if not SNAKE.fullmatch(field.name):
            yield f"{where}: {message.name}.{field.name}"
    for nested in message.nested_type:
        yield from strays_of_message(nested, where)
    for enum in message.enum_type:
        yield from strays_of_enum(enum, where)


def strays_of_enum(enum: EnumDescriptorProto, where: str) -> Iterator[str]:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    if enum.value[0].number != 0 or enum.value[0].name != f"{prefix}UNSPECIFIED":
        yield f"{where}: {enum.name} begins with {enum.value[0].name}"
    for value in enum.value:
        if not value.name.startswith(prefix) or not SNAKE.fullmatch(value.name.lower()):
            yield f"{where}: {enum.name}.{value.name}"


def facts(found: FileDescriptorSet) -> dict[str, str]:
    """Return what a client relies on: names and numbers, and what they mean on the wire."""
    known: dict[str, str] = {}
    for file in ours(found):
        for message in file.message_type:
            known |= facts_of_message(message, file.package)
        for enum in file.enum_type:
            known |= facts_of_enum(enum, file.package)
        for service in file.service:
            for x in service.method:
                streams = f"{x.client_streaming} {x.server_streaming}"
                meaning = f"{x.input_type} {x.output_type} {streams}"
                known[f"{file.package}.{service.name}.{x.name}"] = meaning
    return known


def facts_of_message(message: DescriptorProto, within: str) -> dict[str, str]:
    name = f"{within}.{message.name}"
    known = {name: "message"}
    for x in message.field:
        group = message.oneof_decl[x.oneof_index].name if x.HasField("oneof_index") else ""
        known[f"{name} {x.number}"] = f"{x.name} {x.type} {x.type_name} {x.label} {group}"
    for nested in message.nested_type:
        known |= facts_of_message(nested, name)
    for enum in message.enum_type:
        known |= facts_of_enum(enum, name)
    return known


def facts_of_enum(enum: EnumDescriptorProto, within: str) -> dict[str, str]:
    return {f"{within}.{enum.name} {value.number}": value.name for value in enum.value}


def broken(old: FileDescriptorSet, new: FileDescriptorSet) -> list[str]:
    now = facts(new)
    return [f"{name}: {was}" for name, was in facts(old).items() if now.get(name) != was]


def test_clients_of_released_versions_are_still_served(
    generated: tuple[Path, FileDescriptorSet],
) -> None:
    released = FileDescriptorSet.FromString(RELEASED.read_bytes())
    assert facts(released)
    assert not broken(released, generated[1])


def test_what_would_break_a_client_is_noticed() -> None:
    old = FileDescriptorSet.FromString(RELEASED.read_bytes())
    front = next(i for i, x in enumerate(old.file) if x.name.endswith("front_service.proto"))
    for spoil in (
        lambda file: file.message_type[0].field[0].ClearField("number"),
        lambda file: file.message_type[0].field.pop(),
        lambda file: setattr(file.message_type[0].field[1], "type", 3),
        lambda file: setattr(file.service[0].method[0], "server_streaming", True),
        lambda file: file.service[0].method.pop(),
        lambda file: file.message_type.pop(),
    ):
        new = FileDescriptorSet.FromString(old.SerializeToString())
        spoil(new.file[front])
        assert broken(old, new)
    more = FileDescriptorSet.FromString(old.SerializeToString())
    more.file[front].message_type[0].field.add(name="new", number=99, type=9, label=1)
    assert not broken(old, more)
    more.file[front].message_type[0].name = "bound"
    assert list(strays(more.file[front]))
