"""What is predicted of GPU kernels: what their code is read as, what follows from it, and the record of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton")

import bench.work
from bench import aot, execution, launched, predict, predicted, ptx, sass
from bench.cards import ARCHITECTURES, CARDS, Card, card_called
from bench.predict import Prediction, Record
from bench.work import Work, counted, work
from l2rfast.kernels.symmetric_filter import triton as symmetric

with_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
compiled = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted")
A40 = next(card for card in CARDS if card.name == "A40")

# sum += 0.5 * x[i] of `turns` numbers, those of odd threads twice.
LOOP = """\
.version 8.8
.target sm_80
.address_size 64
.visible .entry loop(.param .u64 loop_param_0, .param .u32 loop_param_1)
.reqntid 64
{
	.reg .pred %p<3>; .reg .b32 %r<4>; .reg .b64 %rd<3>; .reg .f64 %fd<5>;
	ld.param.u64 %rd1, [loop_param_0];
	ld.param.u32 %r1, [loop_param_1];
	mov.u32 %r2, %tid.x;
	and.b32 %r3, %r2, 1;
	setp.eq.s32 %p1, %r3, 1;
	mov.f64 %fd1, 0d0000000000000000;
$L__BB0_1:
	ld.global.f64 %fd2, [%rd1];
	mul.f64 %fd3, %fd2, 0d3FE0000000000000;
	add.f64 %fd1, %fd1, %fd3;
	@!%p1 bra $L__BB0_3;
	add.f64 %fd1, %fd1, %fd2;
$L__BB0_3:
	add.s64 %rd1, %rd1, 8;
	add.s32 %r1, %r1, -1;
	setp.gt.s32 %p2, %r1, 0;
	@%p2 bra $L__BB0_1;
	@%p1 st.global.f64 [%rd1], %fd1;
	ret;
}
"""


def launch_of(turns: int, shape: tuple[int, int, int] = (64, 1, 1)) -> launched.Launch:
    arguments = struct.pack("<Q", 1 << 40), struct.pack("<i", turns)
    return launched.Launch("loop", LOOP, "loop", arguments, shape, (10, 1, 1), 0)


def prediction(**of_work: float) -> Prediction:
    names = ["float32", "float64", "converted", "special", "near", "far", "issued", "issued32", "issued64"]
    done = Work(**(dict.fromkeys(names, 0.0) | of_work), matched=True, registers=32, shared=0, occupancy=1)
    return Prediction("warp, 1 channel", "cuda", "sm_86", 1000, 696_000, 0, None, {"kernel": done})


def test_loops_take_the_turns_and_branches_go_where_they_go_on_a_gpu() -> None:
    kernel = ptx.kernels(LOOP)["loop"]
    launch = launch_of(7)
    for thread, odd in ((0, 0), (33, 1)):
        done = execution.executed(
            kernel, launch.arguments, launch.blocks, launch.shape, (0, 0, 0), [thread], execution.Memory()
        )
        turns = dict(zip(("before", "loop", "twice", "end"), done.entered, strict=False))
        assert turns == {"before": 1, "loop": 7, "twice": 7 * odd, "end": 7}
        assert sum(done.done[k, n] for k, n in done.done if kernel.blocks[k][n].op == "st.global.f64") == odd


def test_what_a_launch_writes_the_next_one_reads() -> None:
    body = "ld.global.u32 %r1, [100];\n$again:\nadd.s32 %r1, %r1, -1;\nsetp.ge.s32 %p1, %r1, 0;\n@%p1 bra $again;\n"
    kernel, memory = ptx.kernels(f".entry f()\n{{\n{body}st.global.u32 [100], 3;\nret;\n}}\n")["f"], execution.Memory()
    place = (1, 1, 1)
    turns = [execution.executed(kernel, [], place, place, (0, 0, 0), [0], memory).entered[1] for _ in range(2)]
    assert turns == [1, 4]


def test_products_are_fused_and_bytes_are_those_of_warps() -> None:
    counts = counted(launch_of(5))  # of two warps, whose first threads are even
    assert counts["float64"] == 2 * 32 * 5
    assert counts["far"] == 2 * 32 * 5 * 8
    assert counts["near"] == counts["special"] == 0


@pytest.mark.parametrize(
    ("line", "bits"),
    [
        ("mul.wide.s32 %rd1, %r1, -8", "-16"),
        ("shr.s32 %r2, %r3, 1", "-3"),
        ("div.s32 %r2, %r3, 2", "-2"),
        ("rem.s32 %r2, %r3, 2", "-1"),
        ("cvt.rzi.s32.f32 %r2, 0fC0200000", "-2"),
        ("cvt.rmi.f32.f32 %r2, 0fC0200000", "0xC0400000"),
        ("cvt.s64.s32 %rd1, %r3", "-5"),
        ("fma.rn.f32 %r2, 0f40000000, 0f40400000, 0f3F800000", "0x40E00000"),
        ("mov.b64 {%r4, %r2}, 0x100000007", "1"),
        ("selp.b32 %r2, 3, 4, %p9", "4"),
        ("max.u32 %r2, %r3, 1", "-5"),
        ("bfe.u32 %r2, 0xF0, 4, 2", "3"),
        ("bfi.b32 %r2, 5, 0xFF00, 4, 3", "0xFF50"),
        ("prmt.b32 %r2, 0x33221100, 0x77665544, 0x7531", "0x77553311"),
        ("prmt.b32 %r2, 0x80, 0, 0x8", "0x808080FF"),
        ("lop3.b32 %r2, 5, 6, 7, 0x96", "4"),
        ("shf.l.wrap.b32 %r2, 0x80000000, 1, 33", "3"),
        ("shf.r.clamp.b32 %r2, 0, 3, 40", "3"),
        ("clz.b32 %r2, 255", "24"),
    ],
)
def test_what_instructions_compute(line: str, bits: str) -> None:
    to = "%rd1" if "%rd1" in line else "%r2"
    size = 8 if to == "%rd1" else 4
    body = f"mov.u32 %r1, 2; mov.u32 %r3, -5; mov.pred %p9, 0; {line}; st.global.b{8 * size} [100], {to};"
    kernel = ptx.kernels(f".entry f()\n{{\n{body}\n}}\n")["f"]
    stored = {}
    execution.function(kernel)({}, 0, lambda at, size: 0, lambda at, value, size: stored.update({at: value}), [0], {})
    assert stored[100] % 2 ** (8 * size) == int(bits, 0) % 2 ** (8 * size)


def test_an_instruction_that_is_not_known_is_not_passed_over() -> None:
    kernel = ptx.kernels(".entry f()\n{\nwmma.load.f32 %f1, [0];\n}\n")["f"]
    with pytest.raises(NotImplementedError, match="wmma"):
        execution.function(kernel)


SASS = """\
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/               @P0 EXIT ;
.L_x_1:
        /*0020*/                   DFMA R2, R4, R6, R2 ;
        /*0030*/               @P1 BRA `(.L_x_0) ;
        /*0040*/                   DADD R2, R2, R4 ;
.L_x_0:
        /*0050*/               @P2 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
.L_x_2:
        /*0070*/                   BRA `(.L_x_2);
        /*0080*/                   NOP;
"""
GCN = """\
loop:
	s_load_dwordx2 s[0:1], s[4:5], 0x0
.LBB0_1:
	v_fma_f64 v[2:3], v[4:5], v[6:7], v[2:3]
	s_cbranch_execz .LBB0_3
	v_add_f64 v[2:3], v[2:3], v[4:5]
.LBB0_3:
	s_cbranch_scc1 .LBB0_1
	s_endpgm
"""


@pytest.mark.parametrize(("text", "around"), [(SASS, 3), (GCN, 2)])
def test_compiled_loops_take_the_turns_of_their_ptx(text: str, around: int) -> None:
    kernel = ptx.kernels(LOOP)["loop"]
    like, launch = sass.of_ptx(kernel), launch_of(6)
    flow = sass.of_text(text)
    assert [loop.within for loop in flow.loops()] == [None]
    for thread, odd in ((0, 0), (1, 1)):
        done = execution.executed(
            kernel, launch.arguments, launch.blocks, launch.shape, (0, 0, 0), [thread], execution.Memory()
        )
        weights = sass.weights(flow, like, done.entered)
        assert weights is not None
        found = sass.issued(flow, weights)
        assert found == {"all": around + 6 * (3 + odd), "float32": 0, "float64": 6 * (1 + odd)}


def test_other_loops_are_said() -> None:
    like = sass.of_ptx(ptx.kernels(LOOP)["loop"])
    assert sass.weights(sass.of_text("/*0000*/ FADD R0, R0, R1 ;\n/*0010*/ EXIT ;\n"), like, [1] * 9) is None


@pytest.mark.parametrize("jump", ["BRX R2 -0x40", "JMX R4"])
def test_where_code_jumps_by_a_table_what_is_issued_is_that_of_ptx(jump: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"/*0000*/ MOV R2, c[0x2][R0] ;\n/*0010*/ {jump} ;\n/*0020*/ EXIT ;\n"
    with pytest.raises(NotImplementedError, match=jump.split()[0]):
        sass.of_text(text)
    monkeypatch.setattr(bench.work, "assembled", lambda *_: (text, 32, 0))
    launch = launch_of(6)
    done, of_ptx = work(launch, "sm_80"), counted(launch)
    assert not done.matched
    assert (done.issued, done.issued32, done.issued64) == (10 * of_ptx["issued"], 0, 0)
    assert of_ptx["issued"] > 0


def test_launches_that_differ_between_targets_are_named() -> None:
    one, two = (predicted.Observed([launch_of(n) for n in range(many)], 1, 1, None) for many in (1, 2))
    case = predicted.CASES[0]
    assert predict._same(two, two, case, "gfx942") == two.launches
    with pytest.raises(ValueError, match=r"on gfx942 launches 1 of loop, but on NVIDIA's 1 of loop, 1 of loop"):
        predict._same(one, two, case, "gfx942")


def test_how_many_warps_are_resident() -> None:
    assert ARCHITECTURES["sm_80"].occupancy(128, 0, 256) == 16 / 64
    assert ARCHITECTURES["sm_80"].occupancy(32, 0, 256) == 1
    assert ARCHITECTURES["sm_86"].occupancy(128, 58128, 256) == 8 / 48  # one block: two have no room
    assert ARCHITECTURES["gfx942"].occupancy(128, 0, 256) == 16 / 32


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_rates_follow_from_lanes_and_clocks(card: Card) -> None:
    """What the data sheets say of float32 (AMD: float64)."""
    said = re.search(r"([\d.]+) TFLOPS", card.source)
    assert said is not None
    assert 2e-3 * card.multiprocessors * card.architecture.float32 * card.gigahertz == pytest.approx(
        float(said[1]), rel=0.005
    )
    assert card_called(f"NVIDIA {card.name.upper()}-PCIE-48GB") == card


def test_what_takes_longest_is_the_time() -> None:
    assert prediction(far=1).seconds(A40) == (pytest.approx(1e-6), "memory")
    cycles = 84 * 1.74e9
    assert prediction(far=1, float64=1e6).seconds(A40) == (pytest.approx(1e6 / 2 / cycles), "float64")
    assert prediction(far=1, float32=1e9).seconds(A40) == (pytest.approx(1e9 / 128 / cycles), "float32")
    assert prediction(far=1e9).seconds(A40) == (pytest.approx(1e9 / 128 / cycles), "loads and stores")
    assert prediction(far=1, issued=1e9).seconds(A40) == (pytest.approx(1e9 / 4 / cycles), "issue")


def test_a_card_that_was_measured_stands_beside_its_prediction(tmp_path: Path) -> None:
    record = Record("digest", {"nvcc": "13.0"}, [prediction(far=1)])
    assert "No card has been measured." in record.markdown(tmp_path)
    results = {"l2rfast": {"median": 2e-6}, "l2rfast, Triton": {"median": 9e-6}}
    report = {"machine": {"gpu": "NVIDIA A40"}, "cases": [{"name": "warp, 1 channel", "results": results}]}
    (tmp_path / "nvidia-a40.json").write_text(json.dumps(report))
    (tmp_path / "cpu.json").write_text(json.dumps({"machine": {"cpu": "x"}, "cases": []}))
    (tmp_path / "busy.json").write_text("{}")
    record.write(tmp_path / "predicted.json")
    page = (tmp_path / "predicted.md").read_text()
    assert "Measured: A40;" in page
    assert "0.00100 (memory); measured 0.00200, off by -50%" in page
    assert Record.read(tmp_path / "predicted.json") == record


def test_loops_that_are_not_understood_are_named(tmp_path: Path) -> None:
    known = prediction(far=1)
    other = replace(known, kernels={"strange": replace(known.kernels["kernel"], matched=False)})
    assert "strange on sm_86" in Record("", {}, [other]).markdown(tmp_path)
    assert "strange" not in Record("", {}, [known]).markdown(tmp_path)


@compiled
@with_nvcc
def test_a_triton_kernel_is_counted_as_its_formula_says() -> None:
    taps, size = 5, (32, 32, 64)
    (launch,) = launched.together(
        launched.of_triton("sm_80", lambda: symmetric.symmetric_filter(aot.meta(1, 1, *size), [0.4, 0.2, 0.1]))
    )[:1]
    done = work(launch, "sm_80")
    voxels = launch.times * 32 * 32 * 64
    assert done.matched
    assert done.float32 == done.issued32 * 32 == taps * voxels
    assert done.float64 == done.near == 0


CUDA = """
from bench import predicted
from bench.work import work
case = predicted.Case("", lambda new: [("sinc", (new((1, 1, 8, 8, 8)), new((1, 3, 8, 8, 8)), "zeros"))])
found = predicted.observed(case, "cuda", "sm_80")
print([(x.kernel, x.blocks, x.shape) for x in found.launches], found.results, found.floor, found.memory)
print(work(found.launches[0], "sm_86").matched)
"""


@compiled
@with_nvcc
def test_cuda_launches_are_written_down_and_their_code_is_found() -> None:
    """In a process of its own: in this one the operators' host form may be loaded."""
    done = subprocess.run([sys.executable, "-c", CUDA], capture_output=True, text=True, check=True)
    launches, matched = done.stdout.splitlines()
    assert re.match(r"\[\('\w+<.*float.*', \(1, 2, 4\), \(32, 4, 2\)\)\] 512 10240 \d+$", launches)
    assert matched == "True"


def test_every_case_of_the_benchmark_that_is_named_has_a_backend() -> None:
    assert all(case.backends() for case in predicted.CASES)
    assert len({case.name for case in predicted.CASES}) == len(predicted.CASES)


@pytest.mark.skipif(
    shutil.which("nvcc") is None or Record.read().compilers != aot.versions(),
    reason="compilers other than those of the record",
)
def test_the_record_is_of_these_sources() -> None:
    recorded = Record.read()
    assert recorded.digest == predict.digest(), "run python -m bench.predict"
    page = predict.RECORD.with_suffix(".md").read_text()
    assert page == recorded.markdown(predict.REPORTS), "run python -m bench.predict --page"
