// The paper's notation of an architecture, l/a:m/e/n/K with an optional xB, to and from a ModelConfig.
#include <algorithm>
#include <charconv>
#include <numeric>

#include "kernels/error.h"
#include "model/config.h"
#include "model/config_limits.h"

namespace jambalaya {

namespace {

[[noreturn]] void refuse(const std::string& text, const std::string& why) {
  throw Error(Exit::usage, cat("notation '", text, "': ", why));
}

/// Reads numbers and separators from left to right and names the part where the text goes wrong.
class Reader {
 public:
  explicit Reader(const std::string& text) : text_(text) {}

  int64_t number(const char* part) {
    int64_t value = 0;
    const char* begin = text_.data() + at_;
    const char* last = text_.data() + text_.size();
    const auto [end, error] = std::from_chars(begin, last, value);
    const bool sign = begin < last && *begin == '-';
    if (end == begin || sign || error != std::errc() || value > 10000)
      refuse(text_, cat(part, " must be a whole number from 0 to 10000, at character ", int64_t(at_) + 1,
                        "; the form is l/a:m or l/a:m/e/n/K, then xB if there are several blocks"));
    at_ += size_t(end - begin);
    return value;
  }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    at_++;
    return true;
  }
  void expect(char c, const char* after) {
    if (!take(c))
      refuse(text_, cat("'", c, "' expected after ", after, ", at character ", int64_t(at_) + 1,
                        "; the form is l/a:m or l/a:m/e/n/K, then xB if there are several blocks"));
  }
  bool done() const { return at_ == text_.size(); }
  size_t at() const { return at_; }

 private:
  const std::string& text_;
  size_t at_ = 0;
};

void check(const Notation& n, const std::string& text) {
  if (n.layers < 1) refuse(text, "l (layers a block) must be at least 1");
  const int64_t unit = n.attention + n.mamba;
  if (unit < 1) refuse(text, "a:m = 0:0 has no layers; write 1:0 for attention alone or 0:1 for Mamba alone");
  if (n.layers % unit != 0)
    refuse(text, cat("a + m = ", unit, " does not divide l = ", n.layers,
                     "; nearest: l = ", nearest_multiples(unit, n.layers)));
  if (n.blocks < 1) refuse(text, "B (blocks) must be at least 1");
  if (n.layers * n.blocks > 10000)
    refuse(text, cat("l x B = ", n.layers * n.blocks, " layers; at most 10000 are supported"));
  if (n.every == 0) return;
  if (n.every > n.layers)
    refuse(text, cat("e = ", n.every, " exceeds l = ", n.layers, "; nearest: e = ", n.layers));
  // With several blocks the counting of e would start anew in each, unless it comes out even.
  if (n.blocks > 1 && n.layers % n.every != 0)
    refuse(text, cat("e = ", n.every, " does not divide l = ", n.layers, ", so that the ", n.blocks,
                     " blocks would differ; nearest: e = ", nearest_divisors(n.layers, n.every)));
  if (n.experts < 2)
    refuse(text, cat("n = ", n.experts, " experts; at least 2 are needed, or leave /e/n/K out"));
  if (n.chosen < 1 || n.chosen > n.experts)
    refuse(text, cat("K = ", n.chosen, " must be from 1 to n = ", n.experts,
                     "; nearest: K = ", n.chosen < 1 ? 1 : n.experts));
}

/// Attention layers of one a:m unit, each in the middle of its share: for a = 1 at half the period, as in the
/// paper.
std::string unit_pattern(int64_t attention, int64_t mamba) {
  const int64_t unit = attention + mamba;
  std::string pattern(size_t(unit), 'M');
  for (int64_t i = 0; i < attention; i++) pattern[size_t((2 * i + 1) * unit / (2 * attention))] = 'A';
  return pattern;
}

int64_t smallest_period(const std::string& letters) {
  const auto n = int64_t(letters.size());
  for (int64_t p = 1; p < n; p++)
    if (n % p == 0 && letters.compare(0, size_t(n - p), letters, size_t(p), size_t(n - p)) == 0) return p;
  return n;
}

/// Distance between expert layers: every = 0 when there are none, -1 when they are not evenly spaced.
int64_t expert_distance(const std::vector<LayerKind>& kinds) {
  std::vector<int64_t> at;
  for (size_t i = 0; i < kinds.size(); i++)
    if (kinds[i].channel == Channel::moe) at.push_back(int64_t(i));
  const auto layers = int64_t(kinds.size());
  if (at.empty()) return 0;
  if (at.size() == 1) return layers;
  const int64_t every = at[1] - at[0];
  for (size_t i = 1; i < at.size(); i++)
    if (at[i] - at[i - 1] != every) return -1;
  return at.front() < every && at.back() + every >= layers ? every : -1;
}

}  // namespace

Notation parse_notation(const std::string& text) {
  Notation n;
  Reader in(text);
  n.layers = in.number("l (layers a block)");
  in.expect('/', "l");
  n.attention = in.number("a (attention layers)");
  in.expect(':', "a");
  n.mamba = in.number("m (Mamba layers)");
  if (in.take('/')) {
    n.every = in.number("e (experts every e layers)");
    if (n.every < 1) refuse(text, "e must be at least 1; leave /e/n/K out for a model without experts");
    in.expect('/', "e");
    n.experts = in.number("n (experts)");
    in.expect('/', "n");
    n.chosen = in.number("K (experts per token)");
  }
  if (in.take('x')) n.blocks = in.number("B (blocks)");
  if (!in.done())
    refuse(text, cat("'", text.substr(in.at()), "' is left over at character ", int64_t(in.at()) + 1,
                     "; the form is l/a:m or l/a:m/e/n/K, then xB if there are several blocks"));
  check(n, text);
  return n;
}

std::string print_notation(const Notation& n) {
  std::string text = cat(n.layers, "/", n.attention, ":", n.mamba);
  if (n.every > 0) text += cat("/", n.every, "/", n.experts, "/", n.chosen);
  if (n.blocks > 1) text += cat("x", n.blocks);
  return text;
}

void apply_notation(const Notation& n, ModelConfig& config) {
  check(n, print_notation(n));
  const int64_t unit = n.attention + n.mamba;
  config.num_hidden_layers = n.layers * n.blocks;
  config.mixer_pattern.clear();
  config.channel_pattern.clear();
  if (n.attention == 0) {
    // Periods cannot say "never"; one that the layers do not reach can, and Hugging Face reads it.
    config.attn_layer_period = config.num_hidden_layers + 1;
    config.attn_layer_offset = config.num_hidden_layers;
  } else if (unit % n.attention == 0) {
    config.attn_layer_period = unit / n.attention;
    config.attn_layer_offset = config.attn_layer_period / 2;
  } else {
    config.mixer_pattern = unit_pattern(n.attention, n.mamba);
  }
  const bool experts = n.every > 0;
  config.num_experts = experts ? n.experts : 1;
  config.num_experts_per_tok = experts ? n.chosen : 1;
  config.expert_layer_period = experts ? n.every : 2;
  config.expert_layer_offset = config.expert_layer_period > 1 ? 1 : 0;
}

std::string notation_of(const ModelConfig& config, std::string* why) {
  const auto refuse_because = [&](const std::string& reason) {
    if (why) *why = reason;
    return std::string();
  };
  if (why) why->clear();
  const auto kinds = layer_kinds(config);
  const int64_t layers = config.num_hidden_layers;
  std::string mixers;
  for (const auto& kind : kinds) mixers += kind.mixer == Mixer::attention ? 'A' : 'M';

  Notation n;
  const int64_t unit = smallest_period(mixers);
  n.attention = std::count(mixers.begin(), mixers.begin() + unit, 'A');
  n.mamba = unit - n.attention;
  // One attention layer a unit may stand anywhere (its offset is given beside the notation); several, where
  // they belong.
  if (n.attention > 1 && mixers.substr(0, size_t(unit)) != unit_pattern(n.attention, n.mamba))
    return refuse_because(cat("the attention layers of ", mixers, " are not evenly spaced in whole blocks"));
  n.every = expert_distance(kinds);
  if (n.every < 0) return refuse_because("the expert layers are not evenly spaced");
  if (n.every > 0) {
    n.experts = config.num_experts;
    n.chosen = config.num_experts_per_tok;
  }
  // The shortest block in which both patterns come out even; a stack of one kind is a single block.
  const int64_t block = std::lcm(unit, std::max<int64_t>(n.every, 1));
  n.layers = unit == 1 || layers % block != 0 ? layers : block;
  n.blocks = layers / n.layers;
  return print_notation(n);
}

}  // namespace jambalaya
