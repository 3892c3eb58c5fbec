// One file holds what all ranks did, collectives with their numbers. Runs as one rank and as several.
#include "parallel/trace_file.h"

#include "kernels/trace.h"
#include "tests/support/ranks.h"
#include "tests/support/temporary_folder.h"

namespace jambalaya {
namespace {

using test::world;

size_t occurrences(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) n++;
  return n;
}

TEST(TraceFile, holds_the_events_of_every_rank) {
  test::TemporaryFolder folder;
  std::string path = folder.path("trace.json");
  broadcast_string(world(), path);
  std::unique_ptr<Communicator> group = world().split(0, "traced");
  trace::start();
  double x = 1;
  { TraceScope scope("compute", "test"); }
  group->all_reduce(make_tensor(&x, {1}));
  trace::stop();
  write_trace(world(), path);
  if (world().rank() != 0) return;
  const std::string text = test::read_file(path);
  const auto ranks = size_t(world().size());
  EXPECT_EQ(text.substr(0, 3), "[\n{") << text;
  EXPECT_EQ(text.substr(text.size() - 4), "}\n]\n");
  EXPECT_EQ(occurrences(text, "\"compute\""), ranks);
  for (size_t r = 0; r < ranks; r++) EXPECT_EQ(occurrences(text, cat("\"rank ", r, " on ")), 1u) << text;
  // A group of one rank communicates with nobody.
  EXPECT_EQ(occurrences(text, "\"group\":\"traced\",\"number\":1"), ranks > 1 ? ranks : 0) << text;
}

TEST(TraceFile, a_path_that_cannot_be_written_is_an_error_on_every_rank) {
  try {
    write_trace(world(), "/nowhere/trace.json");
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::io);
    EXPECT_NE(std::string(e.what()).find("/nowhere/trace.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace jambalaya

int main(int argc, char** argv) { return jambalaya::test::run_ranks(argc, argv); }
