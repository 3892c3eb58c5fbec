// How much device memory NCCL is likely to take for buffers of its own, which lie outside of our arenas.
#pragma once
#include <cstdint>

namespace jambalaya {

struct NcclBuffers {
  int64_t channels = 32;             ///< of one communicator
  int64_t bytes = int64_t(4) << 20;  ///< of one channel
};

/// What the environment asks for: NCCL_BUFFSIZE bytes, and the lower of NCCL_MAX_NCHANNELS and NCCL_MAX_CTAS;
/// values that are not positive numbers are passed over, as NCCL passes them over.
///
/// An estimate from NVIDIA's description of these variables: a channel has a buffer of NCCL_BUFFSIZE (4 MiB)
/// for each connection. How many channels and connections there are is NCCL's choice, by the machine and the
/// collective; taken here are 32 channels and one connection, which is rather too little than too much
/// (trees, sends and other protocols have buffers beside it).
NcclBuffers nccl_buffers();

/// Of that many communicators.
int64_t nccl_buffer_bytes(int communicators);

}  // namespace jambalaya
