"""The dtypes in layouts/ against the C structs: cffi's view of the headers, which the compiler checked.

Run this file, then ruff format, to write arena/native/_core.pyi anew after a change of layout.h, feed.h,
arena.h or group.h.
"""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arena.layouts import header, protocols, slots
from arena.layouts.events import EVENT
from arena.native import EXCEPTIONS, ffi, lib
from arena.readers.group import PRICE, RESERVES
from arena.readers.quote import RESULT

STUB = '''\
"""What the compiled module offers, for type checkers; a test holds the names equal to the headers.

Pointers are Any: cffi checks their types when a function is called. Buffers may be bytes.
"""

from typing import Any, Final

ffi: Any  # cffi.FFI; its own stubs know no numpy arrays and no struct fields

class Lib:
'''
NATIVE = Path(__file__).resolve().parents[2] / "arena" / "native"
CONTRACT = (
    *("layout.h", "feed.h", "arena.h", "depth.h", "outcome.h", "group.h", "pump.h", "route.h"),
)
STRUCTS = {
    **header.STRUCTS,
    "psa_event": EVENT,
    "psa_quote_result": RESULT,
    "psa_reserves": RESERVES,
    "psa_price": PRICE,
}
SIGNED = {"int8_t", "int16_t", "int32_t", "int64_t"}


def fields_of_dtype(name: str) -> dict[str, tuple[int, int]]:
    """Field -> (offset, bytes), without second names for bytes of another field."""
    dtype = STRUCTS[name]
    assert dtype.fields is not None
    left_out = slots.OVERLAPPING.get(name, ())
    return {
        field: (entry[1], entry[0].itemsize)
        for field, entry in dtype.fields.items()
        if field not in left_out
    }


def fields_of_c(name: str) -> dict[str, tuple[int, int]]:
    return {
        field: (entry.offset, ffi.sizeof(entry.type)) for field, entry in ffi.typeof(name).fields
    }


def item_of_c(ctype: Any) -> tuple[Any, tuple[int, ...]]:
    """Innermost item type and shape of a C field."""
    shape: tuple[int, ...] = ()
    while ctype.kind == "array":
        shape += (ctype.length,)
        ctype = ctype.item
    return ctype, shape


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_offsets_and_sizes_are_equal_both_ways(name: str) -> None:
    assert fields_of_dtype(name) == fields_of_c(name)
    assert STRUCTS[name].itemsize == ffi.sizeof(name)


@pytest.mark.parametrize("name", STRUCTS)
def test_item_types_and_shapes_are_equal(name: str) -> None:
    fields = STRUCTS[name].fields
    assert fields is not None
    for field, entry in ffi.typeof(name).fields:
        item, shape = item_of_c(entry.type)
        form = fields[field][0]
        base, found_shape = form.subdtype or (form, ())
        if base.kind == "S":
            assert (item.cname, shape) == ("char", (base.itemsize,)), field
            continue
        assert found_shape == shape, field
        assert base.itemsize == ffi.sizeof(item), field
        if item.kind == "struct":
            assert base == STRUCTS[item.cname], field
        else:
            assert base.kind == ("i" if item.cname in SIGNED else "u"), field
            assert base.byteorder in "<|=", field


@pytest.mark.parametrize("name", STRUCTS)
def test_every_byte_belongs_to_a_field(name: str) -> None:
    covered = np.zeros(STRUCTS[name].itemsize, np.uint8)
    for offset, size in fields_of_dtype(name).values():
        covered[offset : offset + size] += 1
    assert covered.tolist() == [1] * len(covered)


def test_status_is_the_highest_byte_of_fee_status() -> None:
    line = np.zeros(1, slots.LINE)
    line["fee_status"] = 3 << 24 | 3000
    assert line["status"].tolist() == [3]


def test_every_struct_in_shared_memory_has_a_dtype() -> None:
    """Everything reachable from the segments' tables."""
    reachable = {"psa_header", "psa_control", "psa_static", "psa_slot", "psa_token", "psa_slab"}
    reachable |= {"psa_change_entry", "psa_undo_entry", "psa_undo_record"}
    while True:
        more = {
            item_of_c(entry.type)[0].cname
            for name in reachable
            for _, entry in ffi.typeof(name).fields
            if item_of_c(entry.type)[0].kind == "struct"
        }
        if more <= reachable:
            break
        reachable |= more
    assert reachable == set(header.STRUCTS)


def c_constants(prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix): getattr(lib, name)
        for name in dir(lib)
        if name.startswith(prefix)
    }


def test_status_names_are_the_constants() -> None:
    found = {name.upper(): number for number, name in enumerate(slots.STATUS_NAMES)}
    assert found == c_constants("PSA_STATUS_")
    for name, number in found.items():
        assert getattr(slots, f"STATUS_{name}") == number


def test_phase_names_are_the_constants() -> None:
    assert {name.upper(): n for name, n in header.PHASE_NUMBERS.items()} == c_constants(
        "PSA_PHASE_"
    )


def test_states_are_the_constants() -> None:
    names = ("CREATING", "READY", "CLOSED")
    found = {name: getattr(header, f"STATE_{name}") for name in names}
    assert found == c_constants("PSA_STATE_")


def test_flags_are_the_constants() -> None:
    assert c_constants("PSA_UNSURE_") == {
        "PRICE": slots.UNSURE_PRICE,
        "TICKS": slots.UNSURE_TICKS,
        "ALL": slots.UNSURE_ALL,
        "UNREAD": slots.UNSURE_UNREAD,
    }
    assert {
        "HOOKED": slots.POOL_HOOKED,
        "DYNAMIC_FEE": slots.POOL_DYNAMIC_FEE,
    }.items() <= c_constants("PSA_POOL_").items()
    assert c_constants("PSA_UNDO_") == {
        "LINE": slots.UNDO_LINE,
        "TICK": slots.UNDO_TICK,
        "FEES": slots.UNDO_FEES,
    }


def test_protocol_names_are_the_constants() -> None:
    for number, name in protocols.PROTOCOL_NAMES.items():
        assert getattr(lib, f"PSA_{name.upper()}") == number
    for name in ("UNISWAP_V2", "UNISWAP_V3", "UNISWAP_V4"):
        assert getattr(slots, name) == getattr(lib, f"PSA_{name}")


def test_counter_names_are_the_constants() -> None:
    constants = c_constants("PSA_COUNTER_")
    blocks = {"APPLIED", "FAULTS", "UNSUPPORTED", "KINDS"}
    for name, number in constants.items():
        if name in blocks:
            assert getattr(header, f"COUNTER_{name}") == number
        else:
            assert header.COUNTER_NAMES[number] == name.lower()
    assert {n for n in header.COUNTER_NAMES if n < header.COUNTER_FAULTS} == {
        number for name, number in constants.items() if name not in blocks
    }
    assert header.COUNTERS == lib.PSA_COUNTERS
    assert len(set(header.COUNTER_NAMES.values())) == len(header.COUNTER_NAMES)
    assert max(header.COUNTER_NAMES) < header.COUNTERS


def test_block_counters_are_named_after_what_they_count() -> None:
    kinds = {
        "sync": lib.PSA_EVENT_V2_SYNC,
        "delta": lib.PSA_EVENT_V2_DELTA,
        "swap": lib.PSA_EVENT_CL_SWAP,
        "liquidity": lib.PSA_EVENT_CL_LIQUIDITY,
        "slot0_final": lib.PSA_EVENT_SLOT0_FINAL,
        "reserves_final": lib.PSA_EVENT_V2_FINAL,
    }
    for protocol, pool in protocols.PROTOCOL_NAMES.items():
        for event, kind in kinds.items():
            index = lib.PSA_COUNTER_APPLIED + protocol * lib.PSA_COUNTER_KINDS
            index += kind - lib.PSA_EVENT_V2_SYNC
            assert header.COUNTER_NAMES[index] == f"applied_{pool}_{event}"
    index = lib.PSA_COUNTER_APPLIED + lib.PSA_UNISWAP_V4 * lib.PSA_COUNTER_KINDS
    index += lib.PSA_EVENT_PROTOCOL_FEE - lib.PSA_EVENT_V2_SYNC
    assert header.COUNTER_NAMES[index] == "applied_uniswap_v4_protocol_fee"
    for name in (
        "POOL_NOT_FOUND",
        "INVALID_EVENT_DATA",
        "ARITHMETIC_OVERFLOW",
        "UNSUPPORTED_PROTOCOL",
        "UNSUPPORTED_EVENT_TYPE",
        "REORG_TOO_DEEP",
        "REORG_MISMATCH",
    ):
        index = lib.PSA_COUNTER_FAULTS + getattr(lib, f"PSA_{name}") - lib.PSA_POOL_NOT_FOUND
        assert header.COUNTER_NAMES[index] == f"fault_{name.lower()}"
    for name in ("EKUBO", "CURVE_STABLE", "CURVE_TWOCRYPTO", "CURVE_TRICRYPTO", "FLUID"):
        index = lib.PSA_COUNTER_UNSUPPORTED + getattr(lib, f"PSA_{name}")
        assert header.COUNTER_NAMES[index] == f"unsupported_{name.lower()}"


def test_every_status_code_and_nothing_else_has_an_exception() -> None:
    text = (NATIVE / "arena.h").read_text(encoding="utf-8")
    section = text[text.index("---- status codes") : text.index("---- private handles")]
    defined = dict(re.findall(r"^#define (PSA_\w+) (\d+)", section, re.MULTILINE))
    codes = {name: int(number) for name, number in defined.items()}
    assert codes.pop("PSA_OK") == 0
    assert len(set(codes.values())) == len(codes)
    assert {getattr(lib, name) for name in codes} == set(codes.values()) == set(EXCEPTIONS)


def test_stub_names_every_constant_and_function_and_nothing_else() -> None:
    text = (NATIVE / "_core.pyi").read_text(encoding="utf-8")
    (body,) = [
        node.body
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == "Lib"
    ]
    constants = {
        node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    functions = {
        node.name: len(node.args.posonlyargs) - 1
        for node in body
        if isinstance(node, ast.FunctionDef)
    }
    assert constants == {name for name in dir(lib) if isinstance(getattr(lib, name), int)}
    assert set(functions) == set(dir(lib)) - constants
    for name, count in functions.items():
        if count >= 0:
            assert len(ffi.typeof(getattr(lib, name)).args) == count, name
    assert ast.unparse(ast.parse(text)) == ast.unparse(ast.parse(stub()))


def test_a_formatted_segment_reads_back_through_the_dtype() -> None:
    capacities = ffi.new(
        "psa_capacities *",
        {
            "max_pools": 10,
            "max_tokens": 20,
            "undo_entry_count": 30,
            "undo_record_count": 40,
            "heap_nbytes": 8192,
        },
    )
    nbytes = lib.psa_arena_nbytes(capacities)
    memory = bytearray(nbytes)
    base = ffi.from_buffer("uint8_t *", memory, require_writable=True)
    assert lib.psa_arena_format(base, nbytes, capacities, 7, header.LAYOUT_DIGEST) == lib.PSA_OK
    found = np.frombuffer(memory, header.HEADER, 1)[0]
    assert found["magic"] == header.DATA_MAGIC
    assert found["layout_version"] == header.LAYOUT_VERSION
    assert found["byte_order"] == header.BYTE_ORDER
    assert found["layout_digest"].tobytes() == header.LAYOUT_DIGEST
    assert (found["generation"], found["nbytes"]) == (7, nbytes)
    for name in ("max_pools", "max_tokens", "undo_entry_count", "undo_record_count", "heap_nbytes"):
        assert found[name] == getattr(capacities, name)
    tables = [
        ("statics_offset", slots.STATIC.itemsize * 10),
        ("slots_offset", slots.SLOT.itemsize * 10),
        ("tokens_offset", slots.TOKEN.itemsize * 20),
        ("buckets_offset", 4 * int(found["bucket_count"])),
        ("change_entries_offset", slots.CHANGE_ENTRY.itemsize * int(found["change_entry_count"])),
        ("change_slots_offset", 4 * int(found["change_slot_count"])),
        ("undo_entries_offset", slots.UNDO_ENTRY.itemsize * 30),
        ("undo_records_offset", slots.UNDO_RECORD.itemsize * 40),
        ("heap_offset", 8192),
    ]
    end = header.HEADER_NBYTES
    for name, size in tables:
        assert found[name] >= end
        assert found[name] % 64 == 0
        end = int(found[name]) + size
    assert end <= nbytes


@pytest.mark.parametrize("name", sorted(header.STRUCTS))
def test_digest_changes_with_any_struct(name: str) -> None:
    dtype = header.STRUCTS[name]
    assert dtype.fields is not None
    rows = [(field, entry[0], entry[1]) for field, entry in dtype.fields.items()]
    first, *rest = rows
    changes = [
        slots.record(dtype.itemsize, [("renamed", *first[1:]), *rest]),
        slots.record(dtype.itemsize, rest),
        slots.record(dtype.itemsize + 64, rows),
    ]
    digests = {
        header.layout_digest(header.LAYOUT_VERSION, {**header.STRUCTS, name: changed})
        for changed in changes
    }
    digests.add(header.layout_digest(header.LAYOUT_VERSION + 1, header.STRUCTS))
    assert header.layout_digest(header.LAYOUT_VERSION, header.STRUCTS) == header.LAYOUT_DIGEST
    assert header.LAYOUT_DIGEST not in digests
    assert len(digests) == 4


def stub() -> str:
    """The text of _core.pyi: constants and functions in the order of the headers."""
    texts = [(NATIVE / name).read_text(encoding="utf-8") for name in CONTRACT]
    text = "".join(text[: text.index("/* cffi: end */")] for text in texts)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    lines = [
        f"    {name}: Final[int]"
        for name in re.findall(r"^#define (\w+)", text, re.MULTILINE)
        if hasattr(lib, name)
    ]
    for name, listed in re.findall(r"\b(psa_\w+)\(([^)]*)\);", text):
        ctype = ffi.typeof(getattr(lib, name))
        words = [re.findall(r"\w+", argument) for argument in listed.split(",")]
        arguments = ["self"]
        for word, argument in zip(words, ctype.args, strict=False):
            known = f"{word[-1]}_" if word[-1] in ("from", "bytes") else word[-1]
            kind = "float" if argument.cname == "double" else "int"
            arguments.append(f"{known}: {kind if argument.kind == 'primitive' else 'Any'}")
        if ctype.args:
            arguments.append("/")
        result = {"void": "None", "primitive": "int"}.get(ctype.result.kind, "Any")
        lines.append(f"    def {name}({', '.join(arguments)}) -> {result}: ...")
    return STUB + "\n".join(lines) + "\n\nlib: Lib\n"


if __name__ == "__main__":
    (NATIVE / "_core.pyi").write_text(stub(), encoding="utf-8")
