#include "parallel/mesh.h"

#include <utility>

#include "parallel/hosts.h"

namespace jambalaya {

Mesh::Mesh(std::unique_ptr<Communicator> world, const Layout& layout, const DeviceLink& link)
    : world_(std::move(world)),
      layout_(check_layout(world_->size(), layout)),
      link_(link),
      host_reads_(link.accelerator),
      place_(coordinates(layout_, world_->rank())) {
  const int t = layout_.tensor, c = layout_.context;
  const int exchange = layout_.expert * layout_.expert_tensor;
  const int tp = tensor_rank(), cp = context_rank(), dp = data_rank();
  // The colour of a group is a number that only its members share; world order is the order of the
  // coordinate that varies, in every group.
  tensor_ = world_->split(rank() / t, "tensor");
  context_ = world_->split(tp + t * dp, "context");
  data_ = world_->split(tp + t * cp, "data");
  tokens_ = world_->split(tp, "tokens");
  experts_ = world_->split(rank() / exchange, "experts");
  expert_data_ = world_->split(rank() % exchange, "expert_data");

  const int token = cp + c * dp, dense = dense_shard_ranks(layout_);
  dense_shard_ = world_->split(tp + t * (token / dense), "dense_shard");
  dense_replicas_ = world_->split(tp + t * (token % dense), "dense_replicas");
  const int held = rank() % exchange, edp = expert_data_rank(), experts = expert_shard_ranks(layout_);
  expert_shard_ = world_->split(held + exchange * (edp / experts), "expert_shard");
  expert_replicas_ = world_->split(held + exchange * (edp % experts), "expert_replicas");

  hosts_ = gather_hosts(*world_);
  warnings_ = placement_warnings(layout_, hosts_);
  if (link_) attach_groups();
}

void Mesh::attach_groups() {
  std::string note;
  link_.transport = choose_transport(*world_, link_, &note);
  if (!note.empty()) warnings_.push_back(note);
  for (Communicator* group : {world_.get(), tensor_.get(), context_.get(), data_.get(), tokens_.get(),
                              experts_.get(), expert_data_.get()})
    group->attach(link_, link_.compute);
  for (Communicator* group :
       {dense_shard_.get(), dense_replicas_.get(), expert_shard_.get(), expert_replicas_.get()})
    group->attach(link_, link_.communication);
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
