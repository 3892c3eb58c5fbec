// CRC-32C (Castagnoli, RFC 3720): the checksum of a block of tokens.
#pragma once
#include <cstddef>
#include <cstdint>

namespace jambalaya {

/// CRC-32C of `bytes` bytes; `previous` is the value of what came before them (0 at the start).
uint32_t crc32c(const void* data, size_t bytes, uint32_t previous = 0);

/// The same by table, for machines without the instruction (and to test the other against).
uint32_t crc32c_by_table(const void* data, size_t bytes, uint32_t previous = 0);

}  // namespace jambalaya
