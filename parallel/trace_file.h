// The trace of all ranks in one file.
#pragma once
#include <string>

#include "parallel/communicator.h"

namespace jambalaya {

/// Writes what trace::start() has recorded on every rank into one Chrome trace (collective over `world`; rank
/// 0 writes and holds the events of all for the moment). The viewer shows a rank as a process. Throws
/// Error(io), on every rank, when the file cannot be written.
void write_trace(Communicator& world, const std::string& path);

}  // namespace jambalaya
