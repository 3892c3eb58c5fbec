// Generation's cache: new rows arrive at their places bit for bit, and nothing else changes.
#include <gtest/gtest.h>

#include <set>

#include "tests/support/cpu_fixture.h"

namespace jambalaya::test {
namespace {

constexpr int64_t kRoom = 9;

struct Batch {
  std::vector<int64_t> lengths, pasts;
};
const Batch kBatches[] = {
    {{1, 1, 1}, {0, 4, 8}},        // a step
    {{3, 0, 9, 1}, {6, 9, 0, 2}},  // a ragged batch; one sequence is full and says nothing
    {{0, 0}, {0, 3}},              // nobody says anything
};

uint32_t bits(const Tensor& t, int64_t row, int64_t column) {
  const void* at = t.address(row * t.row_stride + column);
  uint32_t value = 0;
  std::memcpy(&value, at, size_t(size_of(t.dtype)));
  return value;
}

/// Among them NaNs, which a copy by way of arithmetic would change.
void fill_with_patterns(const Tensor& t, uint32_t seed) {
  for (int64_t r = 0; r < t.rows(); r++)
    for (int64_t c = 0; c < t.columns(); c++) {
      const uint32_t value = (seed + uint32_t(r * t.columns() + c)) * 2654435761u;
      std::memcpy(t.address(r * t.row_stride + c), &value, size_t(size_of(t.dtype)));
    }
}

void expect_appended(DType act, int64_t width, int64_t gap, const Batch& batch) {
  Backend on("", 2);
  const DocumentsBuffer docs(batch.lengths, batch.pasts);
  const int64_t tokens = docs.view().tokens, sequences = int64_t(batch.lengths.size());
  Owned keys(act, {tokens, width}, gap), values(act, {tokens, width}, gap);
  Owned key_cache(act, {sequences * kRoom, width}), value_cache(act, {sequences * kRoom, width});
  fill_with_patterns(keys, 1), fill_with_patterns(values, 2);
  fill_with_patterns(key_cache, 3), fill_with_patterns(value_cache, 4);
  Owned keys_before(act, {sequences * kRoom, width}), values_before(act, {sequences * kRoom, width});
  fill_with_patterns(keys_before, 3), fill_with_patterns(values_before, 4);

  on->cache_append(on, {keys, values, key_cache, value_cache, docs.view()});

  EXPECT_TRUE(keys.gaps_untouched() && values.gaps_untouched());
  std::set<int64_t> written;
  for (int64_t t = 0; t < tokens; t++) {
    const int64_t row = docs.view().segment_of[t] * kRoom + docs.view().position(t);
    written.insert(row);
    for (int64_t c = 0; c < width; c++) {
      ASSERT_EQ(bits(key_cache, row, c), bits(keys, t, c)) << "token " << t << " column " << c;
      ASSERT_EQ(bits(value_cache, row, c), bits(values, t, c)) << "token " << t << " column " << c;
    }
  }
  for (int64_t row = 0; row < sequences * kRoom; row++)
    for (int64_t c = 0; !written.count(row) && c < width; c++) {
      ASSERT_EQ(bits(key_cache, row, c), bits(keys_before, row, c)) << "row " << row << " is nobody's";
      ASSERT_EQ(bits(value_cache, row, c), bits(values_before, row, c)) << "row " << row << " is nobody's";
    }
}

TEST(cache_append, puts_every_new_row_behind_its_sequence_bit_for_bit_and_touches_no_other) {
  for (DType act : {DType::f32, DType::bf16})
    for (int64_t width : {8, 7, 264})
      for (int64_t gap : {0, 1, 8})
        for (const Batch& batch : kBatches) {
          SCOPED_TRACE(
              cat(name_of(act), " width ", width, " gap ", gap, " sequences ", batch.lengths.size()));
          expect_appended(act, width, gap, batch);
        }
}

TEST(cache_append, refuses_a_sequence_that_would_outgrow_its_rows) {
  Backend on("", 1);
  Owned rows(DType::f32, {2, 4}), cache(DType::f32, {2 * kRoom, 4});
  const DocumentsBuffer fits({1, 1}, {kRoom - 1, 0}), beyond({1, 1}, {kRoom, 0});
  on->cache_append(on, {rows, rows, cache, cache, fits.view()});
  EXPECT_THROW(on->cache_append(on, {rows, rows, cache, cache, beyond.view()}), std::logic_error);
}

}  // namespace
}  // namespace jambalaya::test
