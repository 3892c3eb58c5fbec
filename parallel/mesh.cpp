#include "parallel/mesh.h"

#include <array>
#include <map>
#include <utility>

#include "parallel/hosts.h"

namespace jambalaya {

namespace {

/// Bytes for host_reads() at once: rows of every expert from every rank of a large group. Page-locking more
/// in a step may wait for the device, which may be in a collective.
constexpr int64_t kHostReads = int64_t(1) << 20;

enum Group {
  tensor,
  context,
  data,
  tokens,
  experts,
  expert_data,
  dense_shard,
  dense_replicas,
  expert_shard,
  expert_replicas,
  groups
};
constexpr const char* kNames[groups] = {"tensor",       "context",        "data",        "tokens",
                                        "experts",      "expert_data",    "dense_shard", "dense_replicas",
                                        "expert_shard", "expert_replicas"};

/// The colour of each group that a rank is in: a number that only the group's members share. World order is
/// the order of the coordinate that varies, in every group.
std::array<int, groups> colours(const Layout& l, int rank) {
  const Coordinates at = coordinates(l, rank);
  const int t = l.tensor, exchange = l.expert * l.expert_tensor, held = rank % exchange;
  const int token = at.context + l.context * at.data, dense = dense_shard_ranks(l), edp = at.expert_data,
            experts_shard = expert_shard_ranks(l);
  return {rank / t,
          at.tensor + t * at.data,
          at.tensor + t * at.context,
          at.tensor,
          rank / exchange,
          held,
          at.tensor + t * (token / dense),
          at.tensor + t * (token % dense),
          held + exchange * (edp / experts_shard),
          held + exchange * (edp % experts_shard)};
}

}  // namespace

Mesh::Mesh(std::unique_ptr<Communicator> world, const Layout& layout, const DeviceLink& link)
    : world_(std::move(world)),
      layout_(check_layout(world_->size(), layout)),
      link_(link),
      host_reads_(link.accelerator),
      place_(coordinates(layout_, world_->rank())) {
  const std::array<int, groups> colour = colours(layout_, rank());
  const auto split = [&](Group g) { return world_->split(colour[g], kNames[g]); };
  tensor_ = split(Group::tensor);
  context_ = split(Group::context);
  data_ = split(Group::data);
  tokens_ = split(Group::tokens);
  experts_ = split(Group::experts);
  expert_data_ = split(Group::expert_data);
  dense_shard_ = split(Group::dense_shard);
  dense_replicas_ = split(Group::dense_replicas);
  expert_shard_ = split(Group::expert_shard);
  expert_replicas_ = split(Group::expert_replicas);

  hosts_ = gather_hosts(*world_);
  warnings_ = placement_warnings(layout_, hosts_);
  if (!link_) return;
  host_reads_.take(kHostReads);
  attach_groups();
}

/// Groups of one thread that hold the same ranks share what NCCL keeps for a group, hundreds of megabytes.
void Mesh::attach_groups() {
  std::string note;
  link_.transport = choose_transport(*world_, link_, &note);
  if (!note.empty()) warnings_.push_back(note);
  Communicator* const all[groups] = {tensor_.get(),         context_.get(),        data_.get(),
                                     tokens_.get(),         experts_.get(),        expert_data_.get(),
                                     dense_shard_.get(),    dense_replicas_.get(), expert_shard_.get(),
                                     expert_replicas_.get()};
  const auto attach = [&](Communicator& group, Accelerator::Stream stream) {
    group.attach(link_, stream);
    device_groups_ += group.size() > 1;
  };
  attach(*world_, link_.compute);
  std::vector<bool> everyone(size_t(size()), true);
  std::map<std::vector<bool>, Communicator*> computing{{everyone, world_.get()}}, communicating;
  for (int g = 0; g < groups; g++) {
    const bool computes = g < Group::dense_shard;
    std::vector<bool> members;
    for (int r = 0; r < size(); r++)
      members.push_back(colours(layout_, r)[size_t(g)] == colours(layout_, rank())[size_t(g)]);
    const auto [first, is_new] = (computes ? computing : communicating).try_emplace(members, all[g]);
    if (is_new)
      attach(*all[g], computes ? link_.compute : link_.communication);
    else
      all[g]->attach(*first->second);
  }
}

std::vector<std::string> placement_warnings(const Layout& layout, const std::vector<std::string>& hosts) {
  constexpr int kNamed = 4;  // groups that a warning names
  std::string groups;
  int apart = 0;
  for (size_t first = 0; first < hosts.size(); first += size_t(layout.tensor)) {
    std::vector<std::pair<std::string, std::string>> by_host;
    for (size_t r = first; r < first + size_t(layout.tensor); r++) {
      if (by_host.empty() || by_host.back().first != hosts[r]) by_host.emplace_back(hosts[r], "");
      by_host.back().second += cat(by_host.back().second.empty() ? "" : " ", r);
    }
    if (by_host.size() == 1 || ++apart > kNamed) continue;
    groups += groups.empty() ? "" : "; ";
    for (size_t i = 0; i < by_host.size(); i++)
      groups += cat(i ? ", " : "", "host ", by_host[i].first, ": ranks ", by_host[i].second);
  }
  if (!apart) return {};
  if (apart > kNamed) groups += cat("; and ", apart - kNamed, " more");
  return {cat("tensor ranks lie on different hosts, so that every layer waits for the network (", groups,
              "): start a number of ranks on each host that parallel.tensor = ", layout.tensor, " divides")};
}

}  // namespace jambalaya
