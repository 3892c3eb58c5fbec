// Tests that run as one rank or, under mpirun, as several: a main of their own starts and ends MPI once, and
// every rank reports its failures with its number.
#pragma once
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <memory>

#include "parallel/communicator.h"

namespace jambalaya::test {

inline std::unique_ptr<Communicator>& world_slot() {
  static std::unique_ptr<Communicator> world;
  return world;
}
inline Communicator& world() { return *world_slot(); }

/// Only rank 0 tells of tests that pass; failures are told by the rank that saw them.
class FailurePrinter : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& r) override {
    if (r.failed())
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", world().rank(), r.file_name(), r.line_number(),
                   r.message());
  }
};

/// Body of main(); `prepare` runs once there is a world. A rank that failed makes the whole job fail.
inline int run_ranks(int argc, char** argv, const std::function<void()>& prepare = {}) {
  testing::InitGoogleTest(&argc, argv);
  world_slot() = make_world_communicator();
  if (prepare) prepare();
  // A rank that leaves a test half-way would leave the others waiting: end the job instead.
  if (world().size() > 1) GTEST_FLAG_SET(catch_exceptions, false);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (world().rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter);
  }
  int failed = RUN_ALL_TESTS();
  world().all_reduce(make_tensor(&failed, {1}), Reduce::max);
  world_slot().reset();
  finish_world(0);
  return failed;
}

}  // namespace jambalaya::test
