"""The kernels inside MLX's transformations, and under other threads and instruction sets."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.native_reference import (
    assert_close,
    lora_linear,
    native,
    needs_native,
    normal,
    quantized,
)

pytestmark = needs_native


def layer_inputs() -> tuple[list[mx.array], tuple]:
    weight, _ = quantized(64, 64, 4, 32, mx.float16)
    return [normal(2, 20, 64), normal(64), 0.1 * normal(64, 4), 0.1 * normal(4, 64)], weight


def layer(weight: tuple):
    """A small block that goes through every kernel."""

    def run(x: mx.array, norm: mx.array, a: mx.array, b: mx.array) -> mx.array:
        h = native.rms_norm(x, norm, 1e-5)
        h = lora_linear(h, a, b, 2.0, *weight)
        heads = h.reshape(2, 20, 4, 16).transpose(0, 2, 1, 3)
        heads = native.rope(heads, 16, base=10000.0, offset=3)
        heads = native.attention(heads, heads, heads, scale=0.25, causal=True)
        h = x + heads.transpose(0, 2, 1, 3).reshape(2, 20, 64)
        h = native.swiglu(native.linear(h, *weight), h)
        targets = mx.arange(40)
        return native.selected_logps(h.reshape(40, 64), targets, *weight).sum()

    return run


def gradients(function, args: list[mx.array]) -> list[mx.array]:
    value, grads = mx.value_and_grad(function, argnums=[0, 1, 2, 3])(*args)
    return [value, *grads]


def assert_all_close(ours: list[mx.array], reference: list[mx.array]) -> None:
    for i, pair in enumerate(zip(ours, reference, strict=True)):
        assert_close(*pair, f"output {i}")


def test_compile_and_checkpoint_change_nothing() -> None:
    args, weight = layer_inputs()
    plain = gradients(layer(weight), args)
    compiled = mx.compile(lambda *a: gradients(layer(weight), list(a)))
    for _ in range(2):
        assert_all_close(compiled(*args), plain)
    assert_all_close(gradients(mx.checkpoint(layer(weight)), args), plain)


def test_checkpoint_of_a_compiled_layer() -> None:
    args, weight = layer_inputs()
    function = mx.checkpoint(mx.compile(layer(weight)))
    assert_all_close(gradients(function, args), gradients(layer(weight), args))


def test_two_threads_at_once() -> None:
    args, weight = layer_inputs()
    expected = [a.tolist() for a in gradients(layer(weight), args)]
    results: list[list] = []

    def work() -> None:
        # MLX's lazy arrays belong to the thread that made them.
        own, own_weight = layer_inputs()
        for _ in range(5):
            results.append([a.tolist() for a in gradients(layer(own_weight), own)])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 10
    for result in results:
        assert_all_close([mx.array(a) for a in result], [mx.array(a) for a in expected])


def test_thread_counts_agree() -> None:
    args, weight = layer_inputs()
    before = native.threads()
    try:
        outputs = []
        for count in (1, 2, 5):
            native.set_threads(count)
            assert native.threads() == count
            outputs.append(gradients(layer(weight), args))
            mx.eval(outputs[-1])
    finally:
        native.set_threads(before)
    assert_all_close(outputs[1], outputs[0])
    assert_all_close(outputs[2], outputs[0])


HERE = Path(__file__).parent


def run_kernel_tests(**environment: str) -> str:
    """The kernel tests in a process of their own, under another environment."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        + [
            str(HERE / f"test_native_{name}.py")
            for name in ("linear", "attention", "pointwise", "decode")
        ],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout[-2000:] + done.stderr[-2000:] if done.returncode else ""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_other_instruction_sets(isa: str) -> None:
    if native.isa() == isa and not os.environ.get("MINIALIGN_ISA"):
        pytest.skip("its kernels are tested in this process")
    code = "from minialign.cpu import _native as n; print(n.isa(), n.threads())"
    environment = {"MINIALIGN_ISA": isa, "MINIALIGN_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", "import mlx.core;" + code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    if told.stdout.split()[0] != isa:
        pytest.skip(f"this processor has no {isa}")
    assert told.stdout.split()[1] == "1"
    assert run_kernel_tests(**environment) == ""


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_below_full_precision_are_zero_in_kernels_and_nowhere_else(threads: int) -> None:
    """They would make a product a hundred times slower."""
    native.set_threads(threads)
    try:
        tiny = mx.full((300, 64), 1e-39)
        assert mx.abs(native.linear(tiny, mx.eye(64))).max().item() == 0
        assert mx.abs(tiny * 1).max().item() > 0
        assert np.abs(np.array(tiny)).max() > 0
    finally:
        native.set_threads(0)


def test_an_instruction_set_that_is_not_there_is_named() -> None:
    code = (
        "from minialign.cpu import extension as e; native, text = e.load();"
        "assert native.isa() + ',' in text; print(text)"
    )
    for wanted, said in (("nosuch", "MINIALIGN_ISA=nosuch is none"), ("baseline", "native (base")):
        told = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"MINIALIGN_ISA": wanted},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said in told.stdout


def test_a_forked_child_starts_its_own_threads() -> None:
    code = (
        "import os, mlx.core as mx\n"
        "from minialign.cpu import _native as n\n"
        "n.set_threads(2)\n"
        "assert n.selftest_pool(1000) == 499500\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0 if n.selftest_pool(1000) == 499500 else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_a_norm_is_made_again_in_the_backward_pass_instead_of_kept():
    rows, width, layers = 256, 256, 120  # MLX allocates for 100 operations ahead
    block = rows * width * 4
    keys = mx.random.split(mx.random.key(0), 3)
    w = mx.random.normal((width, width), key=keys[0]) * 0.04
    a = mx.random.normal((width, 4), key=keys[1])
    x = mx.random.normal((rows, width), key=keys[2])
    b, one = mx.zeros((4, width)), mx.ones((width,))

    def total(a, x, kept):
        for _ in range(layers):
            normed = native.rms_norm(x, one, 1e-5)
            if kept:  # a second reader, as a stock layer would be
                normed = normed + 0
            x = x + lora_linear(normed, a, b, 0.1, w, None, None, 0, 32)
        return x.sum()

    peaks, grads = [], []
    for kept in (False, True):
        mx.eval(w, a, x, b, one)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        grads.append(mx.grad(total, argnums=(0, 1))(a, x, kept))
        mx.eval(grads[-1])
        peaks.append(mx.get_peak_memory() - before)
    for got, wanted in zip(*grads, strict=True):
        assert mx.array_equal(got, wanted)
    assert peaks[0] <= peaks[1] - 0.7 * layers * block


def test_no_operation_is_allocated_long_before_its_turn():
    x, weight = mx.ones((512, 1024)), mx.ones((1024,))
    mx.eval(x, weight)
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(60):  # 2 MB each
        x = native.rms_norm(x, weight, 1e-5)
    mx.eval(x)
    assert mx.get_peak_memory() - held < 24e6
