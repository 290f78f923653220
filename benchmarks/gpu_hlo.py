"""Reading the program that XLA made for a GPU: its kernels by loop, and what each has to move.

A kernel is one instruction of a scheduled computation. Its bytes are those of each element that it
needs, once: reads are followed back through slices, gathers and updates in place, where XLA's own
analysis counts whole arrays. Its operations are those of its products.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4,
         "f32": 4, "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
NOT_A_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
                "async-done", "async-update", "copy-done", "iota", "partition-id",
                "opt-barrier"}  # fmt: skip
KINDS = ("custom calls", "wide products", "narrow products", "sums", "other")
WIDE = 32
ATTRIBUTES = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')


class Instruction(NamedTuple):
    """A line of HLO."""

    name: str
    op: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """Of its results: dtype and dimensions."""
    operands: tuple[str, ...]
    line: str

    @property
    def size(self) -> int:
        """Elements of the first result."""
        return math.prod(self.shapes[0][1]) if self.shapes else 0

    @property
    def itemsize(self) -> int:
        return SIZES.get(self.shapes[0][0], 4) if self.shapes else 0

    @property
    def bytes(self) -> int:
        return sum(SIZES.get(kind, 0) * math.prod(dims) for kind, dims in self.shapes)


class Kernel(NamedTuple):
    """One kernel, and how often an update runs it."""

    name: str
    loop: str
    turns: int
    bytes: float
    flops: float
    kind: str = "other"
    """By the costliest operation in it."""


Computation = dict[str, Instruction]


def read(text: str) -> tuple[dict[str, Computation], str]:
    """Return the computations of a module by name, and the entry's name."""
    found: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head and not line.startswith("HloModule"):
            current = found.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (one := _instruction(line)):
            current[one.name] = one
    return found, entry


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s*(?:ROOT )?%([\w.\-]+) = ", line)
    if not head:
        return None
    end = _closing(line, head.end(), " ")
    shape, rest = re.sub(r"\{[^}]*\}|/\*.*?\*/", "", line[head.end() : end]), line[end + 1 :]
    op = rest.split("(", 1)[0]
    inside = rest[len(op) + 1 : _closing(rest, len(op) + 1, ")")]
    shapes = tuple(
        (kind, tuple(int(x) for x in dims.split(",") if x)) for kind, dims in ARRAY.findall(shape)
    )
    return Instruction(head[1], op, shapes, tuple(re.findall(r"%([\w.\-]+)", inside)), line)


def _closing(text: str, start: int, end: str) -> int:
    """Where `end` stands outside brackets, from `start` on."""
    depth = 0
    for i in range(start, len(text)):
        if depth == 0 and text[i] == end:
            return i
        depth += (text[i] in "([{") - (text[i] in ")]}")
    return len(text)


def kernels(text: str) -> Iterator[Kernel]:
    """Yield every kernel of a program, with the loop that it is in."""
    found, entry = read(text)

    def walk(name: str, loop: str, turns: int) -> Iterator[Kernel]:
        computation = found[name]
        for one in computation.values():
            called = ATTRIBUTES.findall(one.line)
            if one.op == "while":
                trips = TRIPS.search(one.line)
                n = turns * (int(trips[1]) if trips else 1)
                for inner in called:
                    yield from walk(inner, f"{loop}/{one.name}", n)
            elif one.op in ("call", "conditional"):
                for inner in called:
                    yield from walk(inner, loop, turns)
            elif one.op not in NOT_A_KERNEL:
                moved = needed(one, computation, found)
                flops, kind = products(one, computation, found), kind_of(one, computation, found)
                yield Kernel(one.name, loop or "/", turns, moved, flops, kind)

    return walk(entry, "", 1)


def kind_of(one: Instruction, scope: Computation, found: dict[str, Computation]) -> str:
    """Wide and narrow products, sums, custom calls, or other.

    A product is wide if its three dimensions are all `WIDE` or more; a kernel that has one is too.
    """
    if one.op == "custom-call":
        return "custom calls"
    if one.op == "dot":
        inner = products(one, scope, found) / (2.0 * max(one.size, 1))
        wide = min([*one.shapes[0][1][-2:], inner]) >= WIDE
        return "wide products" if wide else "narrow products"
    called = [x for x in ATTRIBUTES.findall(one.line) if x in found]
    inside = {kind_of(x, found[c], found) for c in called for x in found[c].values()}
    if one.op in ("reduce", "reduce-window"):
        inside.add("sums")
    return min(inside | {"other"}, key=KINDS.index)


def products(one: Instruction, scope: Computation, found: dict[str, Computation]) -> float:
    """Operations of the products in a kernel: 2 · outputs · contracted elements."""
    if one.op == "dot":
        dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.line)
        shape = scope[one.operands[0]].shapes[0][1]
        inner = math.prod(shape[int(i)] for i in dims[1].split(",") if i) if dims else 1
        return 2.0 * one.size * inner
    called = [x for x in ATTRIBUTES.findall(one.line) if x in found]
    return sum(products(x, found[c], found) for c in called for x in found[c].values())


def needed(one: Instruction, scope: Computation, found: dict[str, Computation]) -> float:
    """Bytes that a kernel has to read and write."""
    called = re.search(r"calls=%?([\w.\-]+)", one.line)
    if one.op == "copy":
        return 2 * one.bytes
    if called is None or one.op not in ("fusion", "async-start"):
        return one.bytes + sum(scope[x].bytes for x in one.operands)
    inside = found[called[1]]
    if one.op == "async-start":
        last = list(inside.values())[-1]
        return needed(last, inside, found)
    use: dict[str, float] = defaultdict(float)
    written = 0.0
    for name in _results(inside):
        at = inside[name]
        while at.op in ("bitcast", "reshape"):
            at = inside[at.operands[0]]
        if at.op in ("dynamic-update-slice", "scatter"):
            update = inside[at.operands[1 if at.op == "dynamic-update-slice" else -1]]
            use[at.name] += update.size
            written += update.size * at.itemsize
        else:
            use[name] += inside[name].size
            written += inside[name].bytes
    for at in reversed(inside.values()):
        if use[at.name] and at.op not in ("parameter", "constant", "iota", "tuple"):
            for place, name in enumerate(at.operands):
                size = inside[name].size
                use[name] = min(size, use[name] + _asked(at, place, size, use[at.name]))
    reads = (x for x in inside.values() if x.op == "parameter")
    return written + sum(use[x.name] * x.itemsize for x in reads)


def _results(inside: Computation) -> tuple[str, ...]:
    root = next(x for x in inside.values() if x.line.lstrip().startswith("ROOT"))
    return root.operands if root.op == "tuple" else (root.name,)


def _asked(at: Instruction, place: int, size: int, used: float) -> float:
    """Elements of an operand of that size that `used` elements of the result need."""
    used = min(used, at.size)
    part = used / max(at.size, 1)
    if at.op in ("dynamic-update-slice", "scatter"):
        return 0 if place == 0 else size
    if at.op in ("slice", "dynamic-slice", "gather"):
        return used if place == 0 else size * part
    if at.op in ("reduce", "dot", "concatenate", "reduce-window", "fusion"):
        return size * part
    return min(size, used)
