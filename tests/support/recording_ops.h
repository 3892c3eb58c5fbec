// A backend that hands every op on to another one and writes down what it was asked for: work as a fact, not
// a time.
#pragma once
#include <string>
#include <utility>

#include "tests/support/forwarding_ops.h"

namespace jambalaya::test {

/// The record holds one line per op: its name and the shapes of its tensors.
class RecordingOps final : public ForwardingOps<RecordingOps> {
 public:
  explicit RecordingOps(Ops& ops) : ops_(ops) {}
  std::string take_record() { return std::exchange(record_, {}); }

  const char* name() const override { return ops_.name(); }
  template <class Op>
  void forward(const char* name, void (Ops::*run)(Context&, const Op&), Context& c, const Op& op,
               std::initializer_list<Tensor> tensors) {
    record_ += name;
    for (const Tensor& t : tensors)
      if (t) record_.append(" ").append(t.describe());
    record_ += "\n";
    (ops_.*run)(c, op);
  }

 private:
  Ops& ops_;
  std::string record_;
};

}  // namespace jambalaya::test
