"""Compares what TensorBoard's readers find in RUN/tb with RUN/metrics.jsonl: python3 tensorboard_reader.py RUN STEPS."""
import json
import sys

import numpy
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.util import tensor_util

TAGS = {
    "train/loss": lambda o: o["loss"],
    "optim/lr": lambda o: o["lr"],
    "optim/grad_norm": lambda o: o["grad_norm"],
    "perf/tokens_per_s": lambda o: o["timing"]["tokens_per_s"],
    "val/bpb": lambda o: o.get("held_out_bits_per_byte"),
    "val/loss": lambda o: o.get("held_out_nats_per_token"),
    "moe/aux_loss": lambda o: o["aux_loss"],
    "moe/layer_00/load_max": lambda o: 4 * max(o["layers"][0]["expert_load"]) if "layers" in o else None,
    "mamba/layer_02/delta_max": lambda o: o["layers"][2]["delta_max"] if "layers" in o else None,
}


def check(name, tags, values):
    """values(tag): (step, value) pairs of a reader."""
    for tag, want in TAGS.items():
        expected = [(o["step"], numpy.float32(want(o))) for o in metrics if want(o) is not None]
        got = [(step, numpy.float32(value)) for step, value in values(tag)]
        close = len(got) == len(expected) and all(
            a[0] == b[0] and abs(a[1] - b[1]) <= 1e-6 * abs(b[1]) for a, b in zip(got, expected))
        if not expected or not close:
            sys.exit(f"{name}: {tag}: {got}, metrics.jsonl has {expected}")
    print(f"{name}: {len(tags)} tags, {len(metrics)} steps")


run, steps = sys.argv[1], int(sys.argv[2])
metrics = [json.loads(line) for line in open(run + "/metrics.jsonl")]
if [o["step"] for o in metrics] != list(range(1, steps + 1)):
    sys.exit(f"metrics.jsonl does not hold the steps 1 to {steps}")

reader = event_accumulator.EventAccumulator(run + "/tb", size_guidance={"scalars": 0})
reader.Reload()
check("EventAccumulator", reader.Tags()["scalars"],
      lambda tag: [(e.step, e.value) for e in reader.Scalars(tag)])

# The one behind the page that people look at: it takes scalars for tensors.
page = plugin_event_accumulator.EventAccumulator(run + "/tb", size_guidance={"tensors": 0})
page.Reload()
check("plugin_event_accumulator", page.Tags()["tensors"],
      lambda tag: [(e.step, tensor_util.make_ndarray(e.tensor_proto).item()) for e in page.Tensors(tag)])
