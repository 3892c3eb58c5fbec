"""The mutants of scripts/mutants: wrong layouts that run, and often train, without complaint.

A change is (file, text that stands there once, text in its place). Tests run in order until one notices.
"""
from typing import NamedTuple


class Test(NamedTuple):
    program: str
    filter: str
    ranks: int

    def __str__(self):
        return f"{self.filter.split('.')[-1]}, {self.ranks} ranks"


class Mutant(NamedTuple):
    name: str
    breaks: str
    tests: list
    changes: list


def parity(test, *ranks):
    return [Test("train_layout_parity_test", f"layouts.{test}", n) for n in ranks]


GRADIENTS_2 = parity("same_loss_gradients_and_norm_any_layout", 2)
GRADIENTS = parity("same_loss_gradients_and_norm_any_layout", 2, 4)
GRADIENTS_4 = parity("same_loss_gradients_and_norm_any_layout", 4)  # copies of key heads, hybrid sharding
STEPS = parity("same_ten_steps_any_layout", 2)
SMALL_SHARDS = parity("same_gradients_with_shards_of_few_tokens", 4)

AVERAGED_EXPERTS = """  sync.finish();
  for (const Part& part : parameters.parts())
    if (part.expert)
      for (int64_t i = 0; i < part.owned_size(); i++)
        parameters.owned_gradient().ptr<float>()[part.owned + i] /= float(mesh_.expert_data().size());
"""

MUTANTS = [
    # ---- tensor parallelism
    Mutant("inner-sum-missing", "Mamba: x_proj's output is not summed before the norms on dt, B, C", GRADIENTS_2,
           [("model/mamba.cpp", "  pass.regions.sum_inner(pass.ctx, saved_.p);\n", "")]),
    Mutant("inner-sum-after-norms", "Mamba: dt, B and C are summed after their norms instead of before", GRADIENTS_2,
           [("model/mamba.cpp", "  pass.regions.sum_inner(pass.ctx, saved_.p);\n", ""),
            ("model/mamba.cpp", "  linear(pass, dt_, i.dt, i.s);\n",
             "  for (const Tensor& x : {i.dt, i.b, i.c}) pass.regions.sum_inner(pass.ctx, x);\n"
             "  linear(pass, dt_, i.dt, i.s);\n")]),
    Mutant("inner-backward-sum-missing", "Mamba: gradients of dt, B, C are not summed; the loss is right", GRADIENTS_2,
           [("model/mamba.cpp", "  pass.regions.sum_inner(pass.ctx, inner);\n", "")]),
    Mutant("inner-backward-sum-after-norms", "Mamba: they are summed after the norms' backward: the norms' own gradients "
           "are partial", GRADIENTS_2,
           [("model/mamba.cpp", "  pass.regions.sum_inner(pass.ctx, inner);\n", ""),
            ("model/mamba.cpp", "  Tensor dp_act = as_dtype(", "  pass.regions.sum_inner(pass.ctx, dp);\n"
             "  Tensor dp_act = as_dtype(")]),
    Mutant("in-proj-one-block", "in_proj is cut as one block: one rank has x, the other z", GRADIENTS_2,
           [("model/table.cpp", 't.matrix("mamba.in_proj.weight", {2 * e, d}, 0).placement.blocks = 2;',
             't.matrix("mamba.in_proj.weight", {2 * e, d}, 0);')]),
    Mutant("copied-key-heads-not-summed", "gradients of key and value heads that several ranks hold are not summed",
           GRADIENTS_4,
           [("model/placement.cpp", "return row.placement.kv_heads > 0 || split ==", "return split ==")]),
    Mutant("head-maximum-not-shared", "the loss adds up the ranks' sums of exponentials, each of which refers to the rank's own "
           "largest logit", GRADIENTS_2,
           [("kernels/cpu/vocab.cpp", "    whole.sum += double(part.sum) * std::exp(double(part.largest) - whole.largest);",
             "    whole.sum += double(part.sum);")]),
    # ---- sequence parallelism
    Mutant("block-norms-not-summed", "sequence parallelism: block norms' gradients are not summed over tensor ranks",
           GRADIENTS_2,
           [("model/placement.cpp", "(split == SplitTokens::with_sequence && ranks.sequence)", "false")]),
    Mutant("router-not-summed", "the router's gradient is not summed over tensor ranks", GRADIENTS_2,
           [("model/placement.cpp", "split == SplitTokens::always ||\n         ", "")]),
    Mutant("routed-rows-not-spread", "without sequence parallelism: tensor ranks keep the input gradients of the rows "
           "that they routed", GRADIENTS,
           [("model/moe.cpp", "  pass.regions.spread_routed(pass.ctx, dx_TD);\n", "")]),
    # ---- experts
    Mutant("experts-summed-over-tokens", "expert gradients are summed over the data ranks, as dense ones are, instead of "
           "those with the same experts", GRADIENTS,
           [("model/parameter_sync.cpp", "{&mesh.expert_shard(), &mesh.expert_replicas(), nullptr, {}}",
             "{&mesh.expert_shard(), mesh.layout().sharding == Sharding::none && mesh.layout().expert_tensor == 1 ? &mesh.tokens() : &mesh.expert_replicas(), nullptr, {}}")]),
    Mutant("experts-averaged", "expert gradients are averaged over the ranks with the same experts", GRADIENTS_2,
           [("train/run/engine.cpp", "  sync.finish();\n", AVERAGED_EXPERTS)]),
    Mutant("arrivals-not-sorted", "rows that arrive from several ranks are not sorted by expert", GRADIENTS_2,
           [("parallel/exchange.cpp", "        by_expert[sorted] = arrival;", "        by_expert[arrival] = arrival;")]),
    Mutant("counts-not-exchanged", "every rank takes its own counts of rows for those of the others", GRADIENTS_2,
           [("parallel/exchange.cpp", "  ranks_->all_to_all(out, in);\n", "  copy(ctx, out, in);\n")]),
    Mutant("statistics-of-local-batch", "balance loss and z-loss from the rank's own tokens instead of the world's",
           GRADIENTS_2,
           [("model/jamba.cpp", "  if (m.stats) m.regions.sum_over_tokens(ctx, m.stats);\n  m.balance(pass, scale.",
             "  m.balance(pass, scale.")]),
    Mutant("balance-loss-averaged", "the balance loss' gradient is divided by the number of data ranks", GRADIENTS_2,
           [("model/statistics.cpp", ".weight = config.router_aux_loss_coef * micro,",
             ".weight = config.router_aux_loss_coef * micro / double(regions.mesh().tokens().size()),")]),
    # ---- context parallelism
    Mutant("state-dropped", "the scan's state does not pass on to the next context rank", GRADIENTS_2,
           [("model/context.cpp", "if (!shard.part(shard.rank()).continues_left()) clear(pass.ctx, h_in);",
             "clear(pass.ctx, h_in);")]),
    Mutant("state-stops-at-neighbour", "the state that passes through a rank is dropped: it carries one rank far",
           SMALL_SHARDS,
           [("model/context.cpp",
             "pass.ops().multiply_add(pass.ctx, {.a = maps.at(r).at(1), .x = state, .b = end, .y = state});",
             "pass.ops().scale_copy(pass.ctx, {.x = end, .y = state});")]),
    Mutant("state-gradient-dropped", "the gradient of the scan's state does not come back", GRADIENTS_2,
           [("model/context.cpp", "if (!shard.part(shard.rank()).open_end) clear(pass.ctx, g);",
             "clear(pass.ctx, g);")]),
    Mutant("halo-dropped", "the convolution does not see the tokens left of its shard", GRADIENTS_2,
           [("model/context.cpp", ".y = halo.at(0).slice_rows(j, j + 1)});",
             ".y = halo.at(0).slice_rows(j, j + 1), .alpha = 0});")]),
    Mutant("halo-from-neighbour-only", "the convolution's halo comes from one rank, also where that has too few tokens",
           SMALL_SHARDS,
           [("model/context.cpp", "    while (shard.range(owner).begin > token) owner--;\n",
             "    if (shard.range(owner).begin > token) return;\n")]),
    Mutant("halo-gradient-dropped", "the gradient of the halo does not come back", GRADIENTS_2,
           [("model/context.cpp", ".y = dx.slice_rows(row, row + 1), .accumulate = true});",
             ".y = dx.slice_rows(row, row + 1), .alpha = 0, .accumulate = true});")]),
    Mutant("ring-block-skipped", "attention skips the block of keys that has moved on by one rank", GRADIENTS_2,
           [("model/ring_attention.cpp", "          if (visible.any) {\n", "          if (visible.any && step != 1) {\n")]),
    Mutant("document-border-ignored", "attention over a cut stream sees the keys of earlier documents", GRADIENTS_2,
           [("parallel/context_shard.cpp", "const int64_t first = std::max(part.starts[s], keys.begin);",
             "const int64_t first = keys.begin;")]),
    Mutant("document-begins-at-shard", "a document that a shard cuts is taken for a new one there", GRADIENTS_2,
           [("parallel/context_shard.cpp", "part.first_positions.push_back(begin - start);",
             "part.first_positions.push_back(0);")]),
    # ---- sharding
    Mutant("reduce-scatter-off-by-one-part", "full sharding: a rank adds its neighbour's range of the gradients",
           GRADIENTS_2,
           [("model/shard_moves.cpp", "{.x = mine, .y = owned, .accumulate = true}",
             "{.x = whole.slice_rows((first + n) % part.size, (first + n) % part.size + n), .y = owned, "
             ".accumulate = true}")]),
    Mutant("micro-batches-overwritten", "full sharding: the last micro-batch's gradients replace the others'",
           GRADIENTS_2, [("model/shard_moves.cpp", "{.x = mine, .y = owned, .accumulate = true}", "{.x = mine, .y = owned}")]),
    Mutant("owned-range-off-by-one-part", "names lie one rank off in the sharded buffers", GRADIENTS_2,
           [("model/parts.cpp", "shard_group(table[size_t(rows[0])], ranks).rank * part.owned_size();",
             "(shard_group(table[size_t(rows[0])], ranks).rank + 1) % part.shards * part.owned_size();")]),
    Mutant("replicas-not-summed", "hybrid sharding: gradients are not summed over the replicas of a range", GRADIENTS_4,
           [("model/parameter_sync.cpp", "    if (group.replicas->size() > 1)\n",
             "    if (group.replicas->size() > 1 && group.shard->size() == 1)\n")]),
    Mutant("one-shard-not-updated", "the optimizer leaves the second rank's shard as it is", STEPS,
           [("train/run/optimizer.cpp", "  for (const Segment& s : segments_) {\n",
             "  for (const Segment& s : segments_) {\n    if (parameters_.ranks().dense.rank == 1) continue;\n")]),
    Mutant("values-not-gathered", "sharding: after an update the model goes on with the values from before", STEPS,
           [("train/run/engine.cpp", "    optimizer.step(ctx_, lr, norm);\n  }\n  guard.forget();\n  sync.refresh();\n",
             "    optimizer.step(ctx_, lr, norm);\n  }\n  guard.forget();\n")]),
    # ---- the norm
    Mutant("norm-counts-copies", "tensors that all tensor ranks hold count once for each of them in the gradient norm",
           GRADIENTS_2,
           [("train/run/optimizer.cpp", "copies(row, parameters.ranks()) * shard_group(row, parameters.ranks()).replicas;",
             "shard_group(row, parameters.ranks()).replicas;")]),
    Mutant("norm-counts-replicas", "tensors that all data ranks hold count once for each of them in the gradient norm",
           GRADIENTS_2,
           [("train/run/optimizer.cpp", "copies(row, parameters.ranks()) * shard_group(row, parameters.ranks()).replicas;",
             "copies(row, parameters.ranks());")]),
    Mutant("norm-leaves-experts-out", "cut experts are left out of the gradient norm", GRADIENTS_2,
           [("train/run/optimizer.cpp", "    if (!holdings_.empty() && holdings_.back().holders == holders)\n",
             "    if (row.placement.expert && parameters.ranks().experts > 1) continue;\n"
             "    if (!holdings_.empty() && holdings_.back().holders == holders)\n")]),
]
