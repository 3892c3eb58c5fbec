#pragma once
#include <string>

namespace jambalaya {

/// First line of the MPI library's own description, e.g. "Open MPI v4.1.4, …"; "" when the build has no MPI.
/// May be asked before MPI is started.
std::string mpi_library_version();

}  // namespace jambalaya
