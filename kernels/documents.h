// The one description of documents in a packed stream of tokens. Convolution, scan, attention, positions,
// loss mask and FLOP counts all read it; nothing crosses a document border.
#pragma once
#include <cstdint>
#include <vector>

namespace jambalaya {

/// T packed tokens in `count` segments. A segment is a whole document, or the part of one that lies here:
/// first_position[s] > 0 says that so many tokens of it came before (carried state, a cache, or a left
/// neighbour). A rank of a context-parallel group holds a contiguous range of its group's stream; only its
/// first segment may continue one of the left neighbour's, and only its last one may go on in the right's.
struct Documents {
  int64_t tokens = 0;                       ///< T
  int64_t count = 0;                        ///< segments S
  const int32_t* offsets = nullptr;         ///< [S + 1] first token of each segment; offsets[S] = T
  const int32_t* first_position = nullptr;  ///< [S] position of a segment's first token within its document
  const int32_t* segment_of = nullptr;      ///< [T] segment of each token
  bool open_end = false;  ///< the last segment continues beyond this stream, on the right neighbour
  /// The same three arrays in device memory. Null: an op that runs there copies them for its call.
  const int32_t *device_offsets = nullptr, *device_first_position = nullptr, *device_segment_of = nullptr;

  /// Position of token t in its document (RoPE).
  int64_t position(int64_t t) const { return first_position[segment_of[t]] + t - offsets[segment_of[t]]; }
  /// The first segment continues a document of the left neighbour's (or of a cache).
  bool continues_left() const { return tokens > 0 && first_position[0] > 0; }
};

/// Owns the arrays of a Documents value (host memory).
class DocumentsBuffer {
 public:
  DocumentsBuffer() = default;
  /// Segments of these lengths, each starting at its position (empty: all at 0). Lengths may be zero.
  explicit DocumentsBuffer(const std::vector<int64_t>& lengths,
                           const std::vector<int64_t>& first_positions = {}, bool open_end = false);
  void assign(const std::vector<int64_t>& lengths, const std::vector<int64_t>& first_positions = {},
              bool open_end = false);
  Documents view() const;

 private:
  std::vector<int32_t> offsets_{0}, first_position_, segment_of_;
  bool open_end_ = false;
};

}  // namespace jambalaya
