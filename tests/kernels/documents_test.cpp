// The description of documents in a packed stream.
#include "kernels/documents.h"

#include <gtest/gtest.h>

namespace jambalaya {
namespace {

TEST(DocumentsBuffer, describes_segments_and_positions) {
  const DocumentsBuffer buffer({3, 0, 2}, {7, 0, 0});
  const Documents docs = buffer.view();
  EXPECT_EQ(docs.tokens, 5);
  EXPECT_EQ(docs.count, 3);
  EXPECT_EQ(docs.position(2), 9);
  EXPECT_EQ(docs.position(3), 0);
  EXPECT_EQ(docs.segment_of[3], 2);
}

TEST(DocumentsBuffer, a_shards_ends_say_where_its_documents_go_on) {
  DocumentsBuffer buffer;
  EXPECT_FALSE(buffer.view().continues_left());
  buffer.assign({3, 2}, {7, 0}, true);
  EXPECT_TRUE(buffer.view().continues_left());
  EXPECT_TRUE(buffer.view().open_end);
  buffer.assign({3, 2}, {0, 7});
  EXPECT_FALSE(buffer.view().continues_left());
  EXPECT_FALSE(buffer.view().open_end) << "kept from the assignment before";
  buffer.assign({0}, {7});
  EXPECT_FALSE(buffer.view().continues_left()) << "no token, nothing to continue";
}

}  // namespace
}  // namespace jambalaya
