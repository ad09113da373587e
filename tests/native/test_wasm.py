"""The linker for WebAssembly: modules made of LLVM's objects, run under node, and what it refuses."""

import json
import subprocess

import pytest

from children import finished
from dojang.base.errors import UnsupportedError
from dojang.native import jit, wasm
from dojang.native.machine import Machine
from under_node import NODE, needs_node

MACHINE = Machine.cross("wasm")
HEAD = 'target triple = "wasm32-unknown-unknown"\ntarget datalayout = ""\n'
# A table in memory, a pointer in a table, a helper that is called, local memory.
PARTS = (
    """
@squares = internal constant [200 x i32] ["""
    + ", ".join(f"i32 {k * k}" for k in range(200))
    + """]
define internal i32 @helper(ptr %p, i32 %i) noinline {
  %q = getelementptr i32, ptr %p, i32 %i
  %v = load i32, ptr %q
  ret i32 %v
}
define i32 @square(i32 %i) {
  %v = call i32 @helper(ptr @squares, i32 %i)
  %seven = load volatile i32, ptr getelementptr (i32, ptr @squares, i32 7)
  %sum = add i32 %v, %seven
  ret i32 %sum
}""",
    """
@word = internal global i32 41
@where = internal global ptr @word
declare void @llvm.memset.p0.i32(ptr, i8, i32, i1)
define internal void @fill(ptr %p, i32 %n) noinline {
  call void @llvm.memset.p0.i32(ptr %p, i8 1, i32 %n, i1 false)
  ret void
}
define i32 @through(i32 %i) {
  %room = alloca [64 x i32]
  call void @fill(ptr %room, i32 256)
  %q = getelementptr i32, ptr %room, i32 %i
  %ones = load i32, ptr %q
  %p = load ptr, ptr @where
  %v = load i32, ptr %p
  %sum = add i32 %ones, %v
  ret i32 %sum
}""",
)


def compiled(text: str) -> bytes:
    return jit.compile_object(HEAD + text, MACHINE, thorough=False)


def called(module: wasm.WasmModule, calls: list[tuple[str, int]]) -> list[int]:
    """What a module's functions give, under node."""
    script = """
      const [module, pages, calls] = JSON.parse(require("fs").readFileSync(0, "utf8"));
      const memory = new WebAssembly.Memory({ initial: pages });
      const made = new WebAssembly.Module(Uint8Array.from(module));
      const { exports } = new WebAssembly.Instance(made, { env: { memory } });
      console.log(JSON.stringify(calls.map(([name, i]) => exports[name](i))));
    """
    given = json.dumps([list(module.code), module.end // wasm.PAGE + 1, calls])
    assert NODE is not None
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([NODE, "-e", script], **pipes)  # type: ignore[call-overload]
    process.stdin.write(given)
    process.stdin.close()
    process.stdin = None
    out, err = finished(process)
    assert process.returncode == 0, err
    return json.loads(out)


@needs_node
def test_objects_keep_their_own_functions_and_data() -> None:
    first, second = map(compiled, PARTS)
    # The same object twice: its functions, data and calls are apart from those of the other.
    linked = wasm.link([(first, {"square": "a"}), (second, {"through": "b"}), (first, {"square": "c"})])
    found = called(linked, [("a", 13), ("a", 199), ("b", 5), ("c", 14), ("b", 63)])
    assert found == [169 + 49, 39601 + 49, 0x01010101 + 41, 196 + 49, 0x01010101 + 41]
    assert linked.end >= wasm.STACK_BYTES + 2 * 800 + 8


def test_what_no_object_defines_is_named() -> None:
    text = "declare float @expf(float)\ndefine float @f(float %x) {\n %y = call float @expf(float %x)\n ret float %y\n}"
    with pytest.raises(UnsupportedError, match="needs expf, which no kernel defines"):
        wasm.link([(compiled(text), {"f": "f"})])


@pytest.mark.parametrize("number", [0, 1, 63, 64, 127, 128, 8191, 8192, (1 << 31) - 1])
def test_numbers_are_read_as_they_were_written(number: int) -> None:
    assert wasm._WasmReader(wasm.leb(number)).number() == number
    assert wasm._WasmReader(wasm.padded(number)).number() == number
    for signed in (number, -number):
        assert wasm._WasmReader(wasm.sleb(signed)).number(signed=True) == signed
    assert wasm._WasmReader(wasm.padded(number, signed=True)).number(signed=True) == number


def test_other_machines_are_not_touched() -> None:
    """Only WebAssembly gets offsets in its loads, by pointers that are said to stay inside of their memory."""
    from dojang.native.emit import F32, PTR, Emit

    texts = {}
    for machine in (MACHINE, Machine.cross("avx2")):
        b = Emit.begin("f", {"x": PTR}, machine)
        b.vstore(b.vload(b.at(b.arg.x, 64), F32), b.arg.x, F32)
        texts[machine.isa] = b.finish()
    assert "inbounds" in texts["wasm"]
    assert "inbounds" not in texts["avx2"]
    assert "v128.load\t64" in jit.assembly(texts["wasm"], MACHINE)
