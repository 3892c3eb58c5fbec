#include "parallel/mpi_version.h"

#ifdef JAMBALAYA_HAVE_MPI
#include <mpi.h>
#endif

namespace jambalaya {

std::string mpi_library_version() {
#ifdef JAMBALAYA_HAVE_MPI
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text);  // Open MPI counts the closing NUL into `length`
  return version.substr(0, version.find('\n'));
#else
  return "";
#endif
}

}  // namespace jambalaya
