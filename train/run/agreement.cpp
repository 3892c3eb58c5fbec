#include "train/run/agreement.h"

#include <algorithm>

#include "parallel/hosts.h"
#include "train/config/options.h"
#include "train/files.h"

namespace jambalaya {

namespace {

constexpr int64_t kDigest = 32;  // digits of xxh3_of_bytes
constexpr int kNamed = 16;       // ranks that a message lists

// Keys and values are one line of text each.
std::string text_of(const std::vector<Fact>& facts) {
  std::string text;
  for (const Fact& fact : facts) text += cat(fact.key, '\n', printable(fact.value, 500), '\n');
  return text;
}

/// Every rank's digest, in rank order.
std::vector<std::string> gather_digests(Communicator& world, const std::vector<Fact>& facts) {
  std::string exact;
  for (const Fact& fact : facts) exact += cat(fact.key, '\0', fact.value, '\0');
  std::string mine = xxh3_of_bytes(exact.data(), exact.size());
  JAMBALAYA_CHECK(int64_t(mine.size()) == kDigest, mine);
  std::vector<char> all(size_t(kDigest * world.size()));
  world.all_gather(make_tensor(mine.data(), DType::u8, {kDigest}),
                   make_tensor(all.data(), DType::u8, {kDigest * world.size()}));
  std::vector<std::string> digests;
  for (int r = 0; r < world.size(); r++) digests.emplace_back(all.data() + r * kDigest, size_t(kDigest));
  return digests;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

/// The first difference of two ranks' texts: key, and the value of either.
struct Difference {
  std::string key, first, other;
};
Difference first_difference(const std::string& first, const std::string& other) {
  const std::vector<std::string> a = lines_of(first), b = lines_of(other);
  for (size_t i = 0; i + 1 < std::min(a.size(), b.size()); i += 2) {
    if (a[i] != b[i]) break;
    if (a[i + 1] != b[i + 1]) return {a[i], a[i + 1], b[i + 1]};
  }
  return {"the program", "one build", "another"};  // which knows other keys
}

/// "rank 1 on host b", and how many more are like it.
std::string others(const std::vector<std::string>& digests, const std::vector<std::string>& hosts) {
  std::string text;
  int count = 0;
  for (size_t r = 1; r < digests.size(); r++) {
    if (digests[r] == digests[0]) continue;
    if (count++ < kNamed) text += cat(text.empty() ? "rank " : ", rank ", r, " on host ", hosts[r]);
  }
  return count > kNamed ? cat(text, " and ", count - kNamed, " more") : text;
}

}  // namespace

void check_agreement(Communicator& world, const std::vector<Fact>& facts) {
  const std::vector<std::string> digests = gather_digests(world, facts);
  const auto differs = std::find_if(digests.begin(), digests.end(),
                                    [&](const std::string& digest) { return digest != digests[0]; });
  if (differs == digests.end()) return;
  const int rank = int(differs - digests.begin());
  const std::vector<std::string> hosts = gather_hosts(world);
  std::string first = text_of(facts), other = first;
  broadcast_string(world, first, 0);
  broadcast_string(world, other, rank);
  const Difference d = first_difference(first, other);
  std::string what = cat(d.key, " is ", d.first, " on rank 0 on host ", hosts[0], " and ", d.other,
                         " on rank ", rank, " on host ", hosts[size_t(rank)]);
  for (const Fact& fact : facts)
    if (fact.key == d.key && !fact.difference.empty())
      what = cat(fact.difference, " on rank ", rank, " on host ", hosts[size_t(rank)],
                 " than on rank 0 on host ", hosts[0]);
  throw Error(Exit::usage, cat("the ranks do not agree: ", what, "; not as rank 0: ", others(digests, hosts),
                               ". Start all ranks with the same config, the same --set, the same program and "
                               "the same data"));
}

std::vector<Fact> config_facts(const Config& config) {
  std::vector<Fact> facts;
  for (const Option& option : config_options())
    if (option.get && option.key != "run.threads") facts.push_back({option.key, option.get(config)});
  return facts;
}

std::vector<Fact> data_facts(const Dataset& dataset, const std::string& folder) {
  const std::string& tokenizer = dataset.tokenizer_json();
  return {
      {"training tokens", dataset.train().fingerprint(), cat("data.folder = ", folder, " holds other data")},
      {"held-out tokens", dataset.held_out().fingerprint(),
       cat("data.folder = ", folder, " holds other held-out data")},
      {"tokenizer", xxh3_of_bytes(tokenizer.data(), tokenizer.size()),
       cat("data.folder = ", folder, " holds another tokenizer")}};
}

}  // namespace jambalaya
