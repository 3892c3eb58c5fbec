// Ranks that were started with different settings, programs or data would train different models and add up
// their gradients without a word. What must be equal is compared before any of it is used.
#pragma once
#include <string>
#include <vector>

#include "data/dataset.h"
#include "parallel/communicator.h"
#include "train/config.h"

namespace jambalaya {

/// Something that must be the same on every rank.
struct Fact {
  std::string key, value;
  std::string difference = "";  ///< says what differs, in place of both values
};

/// Collective: one all-gather of 32 bytes when all ranks agree. Otherwise every rank throws Error(usage) with
/// the first fact that differs, both values, and the ranks and hosts that have them.
void check_agreement(Communicator& world, const std::vector<Fact>& facts);

/// Every option of the resolved config but run.threads, which may suit each host.
std::vector<Fact> config_facts(const Config& config);
/// Tokens of both splits and the tokenizer.
std::vector<Fact> data_facts(const Dataset& dataset, const std::string& folder);

}  // namespace jambalaya
