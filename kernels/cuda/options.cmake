# What a user may set of the CUDA build (docs/cuda.md), checked where it is read: a typo must not become a CPU build.

string(TOLOWER "${JAMBALAYA_CUDA}" JAMBALAYA_CUDA)
if(NOT JAMBALAYA_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "JAMBALAYA_CUDA=${JAMBALAYA_CUDA}: give auto (where there is a toolkit), on or off")
endif()

if(NOT JAMBALAYA_CUDA STREQUAL "off")
  if(NOT JAMBALAYA_CUDA_ARCHITECTURES)
    message(FATAL_ERROR "JAMBALAYA_CUDA_ARCHITECTURES is empty: give compute capabilities, 80 or higher, as \"80;90\"")
  endif()
  foreach(architecture ${JAMBALAYA_CUDA_ARCHITECTURES})
    if(NOT architecture MATCHES "^[1-9][0-9]+$" OR architecture LESS 80)
      message(FATAL_ERROR "JAMBALAYA_CUDA_ARCHITECTURES=${JAMBALAYA_CUDA_ARCHITECTURES}: '${architecture}' is not a compute "
                          "capability of 80 or higher (80 A100, 90 H100 and H200, 100 B200); give it as \"80;90\"")
    endif()
  endforeach()

  separate_arguments(cudacxx NATIVE_COMMAND "$ENV{CUDACXX}")
  if(cudacxx)
    list(GET cudacxx 0 cudacxx)  # options may follow
    find_program(cudacxx_found "${cudacxx}" NO_CACHE)
    if(NOT cudacxx_found)
      message(FATAL_ERROR "CUDACXX=$ENV{CUDACXX}: no such program; name the toolkit's nvcc, or unset it "
                          "(-DJAMBALAYA_CUDA=off builds for the CPU alone)")
    endif()
  endif()

  if(JAMBALAYA_CUDNN_FRONTEND AND NOT EXISTS "${JAMBALAYA_CUDNN_FRONTEND}/cudnn_frontend.h"
     AND NOT EXISTS "${JAMBALAYA_CUDNN_FRONTEND}/include/cudnn_frontend.h")
    message(FATAL_ERROR "JAMBALAYA_CUDNN_FRONTEND=${JAMBALAYA_CUDNN_FRONTEND}: neither it nor its include/ holds "
                        "cudnn_frontend.h; scripts/install_cuda_packages fetches it")
  endif()
endif()
