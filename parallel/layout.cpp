#include "parallel/layout.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/error.h"

namespace jambalaya {

namespace {

constexpr size_t kShown = 12;  // valid layouts that a message lists

/// "" or why a model cannot be cut this way.
std::string model_problem(const Layout& l, const LayoutLimits& m) {
  const int64_t t = l.tensor;
  if (m.heads % t) return cat("tensor = ", t, " does not divide the ", m.heads, " attention heads");
  if (m.kv_heads % t && t % std::max<int64_t>(m.kv_heads, 1))
    return cat("tensor = ", t, " is neither a divisor nor a multiple of the ", m.kv_heads,
               " key/value heads");
  if (m.channels % t) return cat("tensor = ", t, " does not divide the ", m.channels, " channels of Mamba");
  if (m.experts == 0 && l.expert * l.expert_tensor > 1)
    return cat("expert = ", l.expert, ", expert_tensor = ", l.expert_tensor, " for a model without experts");
  if (m.experts % l.expert) return cat("expert = ", l.expert, " does not divide the ", m.experts, " experts");
  return "";
}

std::string ranks_text(int64_t ranks) { return cat(ranks, ranks == 1 ? " rank" : " ranks"); }

/// "" or why the degrees do not make up the ranks; `data` may be 0.
std::string world_problem(int ranks, const Layout& l) {
  for (const auto& [name, degree] :
       {std::pair("context", l.context), std::pair("tensor", l.tensor), std::pair("expert", l.expert),
        std::pair("expert_tensor", l.expert_tensor)})
    if (degree < 1) return cat(name, " = ", degree, " is below 1");
  if (l.data < 0) return cat("data = ", l.data, " is below 0");
  const int64_t shared = int64_t(l.context) * l.tensor, experts = int64_t(l.expert) * l.expert_tensor;
  const std::string product = cat("context = ", l.context, " x tensor = ", l.tensor);
  if (l.data > 0 && (shared > ranks || l.data * shared != ranks))
    return cat("data = ", l.data, " x ", product, " is not the ", ranks_text(ranks), " of this job");
  if (ranks % shared) return cat(product, " does not divide the ", ranks_text(ranks), " of this job");
  if (ranks % experts)
    return cat("expert = ", l.expert, " x expert_tensor = ", l.expert_tensor, " does not divide the ",
               ranks_text(ranks), " of this job");
  return "";
}

/// "" or why `shard` does not fit; `data` is filled in.
std::string shard_problem(const Layout& l) {
  if (l.shard == 0) return "";
  if (l.sharding == Sharding::none)
    return cat("shard = ", l.shard,
               " while sharding is none: set sharding to optimizer or full, or shard to 0");
  const int tokens = token_ranks(l);
  if (l.shard > 0 && tokens % l.shard == 0) return "";
  std::string divisors;
  for (int s = 1; s <= tokens; s++)
    if (tokens % s == 0) divisors += cat(divisors.empty() ? "" : ", ", s);
  return cat("shard = ", l.shard, " does not divide the ", tokens,
             " ranks of data x context; admissible: ", divisors);
}

double distance(const Layout& asked, const Layout& valid) {
  const auto apart = [](int a, int b) { return a > 0 ? std::abs(std::log2(double(a) / b)) : 0; };
  return apart(asked.data, valid.data) + apart(asked.context, valid.context) +
         apart(asked.tensor, valid.tensor) + apart(asked.expert, valid.expert) +
         apart(asked.expert_tensor, valid.expert_tensor);
}

std::vector<Layout> all_layouts(int ranks, const LayoutLimits* limits) {
  std::vector<int> divisors;
  for (int n = 1; n <= ranks; n++)
    if (ranks % n == 0) divisors.push_back(n);
  std::vector<Layout> layouts;
  for (int data : divisors)
    for (int context : divisors)
      for (int expert : divisors)
        for (int expert_tensor : divisors) {
          if (ranks / data % context || ranks / expert % expert_tensor) continue;
          const Layout l{.data = data,
                         .context = context,
                         .tensor = ranks / data / context,
                         .expert = expert,
                         .expert_tensor = expert_tensor};
          if (!limits || model_problem(l, *limits).empty()) layouts.push_back(l);
        }
  return layouts;
}

[[noreturn]] void refuse(int ranks, const Layout& asked, const LayoutLimits* limits, const std::string& why) {
  std::vector<Layout> valid = all_layouts(ranks, limits);
  std::stable_sort(valid.begin(), valid.end(),
                   [&](const Layout& a, const Layout& b) { return distance(asked, a) < distance(asked, b); });
  std::string list;
  for (size_t i = 0; i < std::min(valid.size(), kShown); i++) list += "\n  " + describe(valid[i]);
  if (valid.size() > kShown) list += cat("\n  and ", valid.size() - kShown, " more");
  throw Error(Exit::layout, cat("parallel: ", why, "; valid layouts of ", ranks_text(ranks),
                                limits ? " for this model" : "", ", nearest first:", list));
}

Layout check(int ranks, Layout layout, const LayoutLimits* limits) {
  std::string why = world_problem(ranks, layout);
  if (why.empty() && limits) why = model_problem(layout, *limits);
  if (!why.empty()) refuse(ranks, layout, limits, why);
  layout.data = ranks / (layout.context * layout.tensor);
  why = shard_problem(layout);
  if (!why.empty()) throw Error(Exit::layout, cat("parallel: ", why));
  return layout;
}

}  // namespace

Layout check_layout(int ranks, const Layout& layout) { return check(ranks, layout, nullptr); }
Layout check_layout(int ranks, const Layout& layout, const LayoutLimits& limits) {
  return check(ranks, layout, &limits);
}

std::vector<Layout> valid_layouts(int ranks) { return all_layouts(ranks, nullptr); }
std::vector<Layout> valid_layouts(int ranks, const LayoutLimits& limits) {
  return all_layouts(ranks, &limits);
}

std::string describe(const Layout& l) {
  return cat("data=", l.data, " context=", l.context, " tensor=", l.tensor, " expert=", l.expert,
             " expert_tensor=", l.expert_tensor);
}
std::string describe_fully(const Layout& l) {
  const char* sharding = l.sharding == Sharding::none        ? "none"
                         : l.sharding == Sharding::optimizer ? "optimizer"
                                                             : "full";
  return cat(describe(l), " sequence=", l.sequence, " sharding=", sharding, " shard=", dense_shard_ranks(l));
}

Coordinates coordinates(const Layout& l, int rank) {
  return {.data = rank / (l.tensor * l.context),
          .context = rank / l.tensor % l.context,
          .tensor = rank % l.tensor,
          .expert_data = rank / (l.expert_tensor * l.expert),
          .expert = rank / l.expert_tensor % l.expert,
          .expert_tensor = rank % l.expert_tensor};
}

int dense_shard_ranks(const Layout& l) {
  if (l.sharding == Sharding::none) return 1;
  return l.shard ? l.shard : token_ranks(l);
}

int expert_shard_ranks(const Layout& l) {
  const int ranks = expert_data_ranks(l);
  if (l.sharding == Sharding::none) return 1;
  if (l.shard == 0) return ranks;
  // As many ranks of the world as a dense shard group, where they divide.
  int shard =
      int(std::clamp<int64_t>(int64_t(l.shard) * l.tensor / (int64_t(l.expert) * l.expert_tensor), 1, ranks));
  while (ranks % shard) shard--;
  return shard;
}

}  // namespace jambalaya
