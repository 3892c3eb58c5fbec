#!/usr/bin/env python3
"""What users of a GPU would run instead, timed on this GPU: torch's products and attention, mamba_ssm's scan, and
transformers' Jamba at the size of step_benchmark. Prints a table, and after each part a line "JSON {...}" with all that
is known so far.

Ends with 3 where there is no torch with CUDA. mamba_ssm and transformers are timed where they are installed; mamba_ssm
is built from its source on PyPI by: pip install --no-build-isolation mamba-ssm (20 minutes on 16 cores; its CUDA scan
needs MAMBA_KEEP_CUDA_BUILD=TRUE in newer versions).
"""
import json
import sys
import time

try:
    import torch
except ImportError:
    print("gpu_peers: no torch here")
    sys.exit(3)
if not torch.cuda.is_available():
    print("gpu_peers: torch finds no GPU")
    sys.exit(3)

BF16 = torch.bfloat16
record = {"torch": torch.__version__}


def seconds_of(work, seconds=0.1):
    """Best of three rounds, after a warm-up."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    times = max(1, min(1000, int(seconds / max(time.perf_counter() - start, 1e-6))))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(times):
            work()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / times)
    return best


def row(name, seconds, flops=0.0):
    record[name] = {"seconds": seconds, **({"tflops": flops / seconds / 1e12} if flops else {})}
    print(f"{name:48} {seconds * 1e3:10.3f} ms" + (f" {flops / seconds / 1e12:8.0f} TFLOP/s" if flops else ""), flush=True)


def products():
    a, b = torch.randn(8192, 8192, device="cuda", dtype=BF16), torch.randn(8192, 8192, device="cuda", dtype=BF16)
    row("torch product 8192^3 bf16", seconds_of(lambda: a @ b.T), 2 * 8192**3)


def attention():
    """8 documents of 4096, 32 query and 8 key heads of 128."""
    shape = lambda heads: torch.randn(8, heads, 4096, 128, device="cuda", dtype=BF16, requires_grad=True)
    q, k, v = shape(32), shape(8), shape(8)
    flops = 4 * 8 * 32 * 4096 * 4097 / 2 * 128
    forward = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    with torch.no_grad():
        row("torch SDPA forward, 8 x 4096", seconds_of(forward), flops)
    out, gradient = forward(), torch.randn(8, 32, 4096, 128, device="cuda", dtype=BF16)
    row("torch SDPA backward (not deterministic)", seconds_of(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)), 2.5 * flops)


def scan():
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception as missing:  # built for another torch, without its CUDA scan, or not there
        record["mamba_ssm"] = f"not timed: {type(missing).__name__}: {missing}"
        print(record["mamba_ssm"])
        return
    batch, width, length, states = 8, 8192, 4096, 16
    wide = lambda: torch.randn(batch, width, length, device="cuda", dtype=BF16, requires_grad=True)
    narrow = lambda: torch.randn(batch, states, length, device="cuda", dtype=BF16, requires_grad=True)
    u, delta, z, b, c = wide(), wide(), wide(), narrow(), narrow()
    a = -torch.rand(width, states, device="cuda").requires_grad_()
    d, bias = torch.ones(width, device="cuda", requires_grad=True), torch.full((width,), -4.0, device="cuda", requires_grad=True)
    forward = lambda: selective_scan_fn(u, delta, a, b, c, d, z=z, delta_bias=bias, delta_softplus=True)
    with torch.no_grad():
        row("mamba_ssm scan forward, 8 x 4096 x 8192 x 16", seconds_of(forward))
    out = forward()
    gradient = torch.randn_like(out)
    row("mamba_ssm scan backward", seconds_of(lambda: torch.autograd.grad(out, (u, delta, a, b, c, d, z, bias), gradient, retain_graph=True)))


def jamba_step():
    try:
        from transformers import JambaConfig, JambaForCausalLM
    except ImportError as missing:
        record["transformers"] = f"not timed: {missing}"
        print(record["transformers"])
        return
    config = JambaConfig(vocab_size=65536, hidden_size=2048, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
                         num_key_value_heads=4, num_experts=8, num_experts_per_tok=2, attn_layer_period=8, attn_layer_offset=4,
                         expert_layer_period=2, expert_layer_offset=1, use_cache=False, use_mamba_kernels="mamba_ssm" in sys.modules)
    model = JambaForCausalLM(config).to("cuda", BF16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rows, length = 1, 1024  # its scan in Python keeps [rows, inner, length, states] in fp32, and steps one token at a time
    ids = torch.randint(0, 65536, (rows, length), device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    step()
    seconds = seconds_of(step, 0.01)
    row(f"transformers Jamba step, {rows} x {length} tokens", seconds)
    record["transformers tokens per second"] = rows * length / seconds
    print(f"  {rows * length / seconds:.0f} tokens/s")


for part in (products, attention, scan, jamba_step):
    try:
        torch.cuda.empty_cache()  # what the part before left
        part()
    except Exception as problem:  # of a peer: the others are timed all the same
        record[part.__name__] = f"failed: {type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"
        print(record[part.__name__])
    print("JSON " + json.dumps(record), flush=True)
