# cmake --build BUILD --target package: jambalaya_VERSION_ARCH.deb, libjambalaya-dev_…deb and, with a CUDA library,
# jambalaya-cuda_…deb. Dependencies on libraries are found by dpkg-shlibdeps.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME jambalaya)
set(CPACK_PACKAGE_VENDOR Jambalaya)
set(JAMBALAYA_PACKAGER "Jambalaya <root@localhost>" CACHE STRING "Maintainer of the Debian packages, name and address")
set(CPACK_PACKAGE_CONTACT "${JAMBALAYA_PACKAGER}")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL development)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)  # a package for each component
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

if(TARGET jambalaya)
  list(APPEND CPACK_COMPONENTS_ALL program)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME jambalaya)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
  if(JAMBALAYA_MPI)
    set(CPACK_DEBIAN_PROGRAM_PACKAGE_DEPENDS openmpi-bin)  # mpirun
  endif()
  set(CPACK_COMPONENT_PROGRAM_DESCRIPTION
    "One program goes from text files to a tokenizer, token shards, training under\nmpirun, evaluation, generation and safetensors that Hugging Face transformers\nloads. Licence: Apache-2.0.")
endif()

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libjambalaya-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION
  "Its kernels for other programs, as a static library with headers and CMake package\nfiles: selective scan, attention, matrix products, experts and more for the CPU,\nforward and backward. Licence: Apache-2.0.")

if(TARGET jambalaya_cuda)
  list(APPEND CPACK_COMPONENTS_ALL cuda)
  set(CPACK_DEBIAN_CUDA_PACKAGE_NAME jambalaya-cuda)
  set(CPACK_DEBIAN_CUDA_PACKAGE_SHLIBDEPS ON)
  # Loaded only by the program of the same build.
  set(CPACK_DEBIAN_CUDA_PACKAGE_DEPENDS "jambalaya (= ${PROJECT_VERSION})")
  set(CPACK_COMPONENT_CUDA_DESCRIPTION "Its kernels for NVIDIA GPUs, which the program loads. Needs NVIDIA's driver and cuBLAS.\nLicence: Apache-2.0.")
endif()
include(CPack)
