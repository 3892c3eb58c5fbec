# cmake --install. Components: program (the command, its pages, configs, documents), cuda (the GPU library) and
# development (kernels for other CMake projects).
include(CMakePackageConfigHelpers)

install(TARGETS jambalaya_kernels EXPORT jambalaya-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
file(GLOB headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.h)
install(FILES ${headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/jambalaya/kernels COMPONENT development)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/jambalaya)
install(EXPORT jambalaya-targets NAMESPACE jambalaya:: DESTINATION ${package_folder} COMPONENT development)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/jambalaya-config.cmake.in
  ${PROJECT_BINARY_DIR}/packaging/jambalaya-config.cmake INSTALL_DESTINATION ${package_folder})
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/packaging/jambalaya-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/packaging/jambalaya-config.cmake ${PROJECT_BINARY_DIR}/packaging/jambalaya-config-version.cmake
  DESTINATION ${package_folder} COMPONENT development)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION share/doc/libjambalaya-dev RENAME copyright COMPONENT development)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/examples DESTINATION share/doc/libjambalaya-dev COMPONENT development)

if(TARGET jambalaya_cuda)
  # The program looks in ../lib/jambalaya, whatever the system calls its folder of libraries.
  set_target_properties(jambalaya_cuda PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS jambalaya_cuda LIBRARY DESTINATION lib/jambalaya COMPONENT cuda)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION share/doc/jambalaya-cuda RENAME copyright COMPONENT cuda)
endif()

if(TARGET jambalaya)
  install(TARGETS jambalaya RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs DESTINATION share/jambalaya COMPONENT program)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/ DESTINATION share/doc/jambalaya COMPONENT program
    FILES_MATCHING PATTERN "*.md" PATTERN examples EXCLUDE)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION share/doc/jambalaya RENAME copyright COMPONENT program)

  # What the program writes about itself.
  set(pages "")
  foreach(page "jambalaya.1:man" "jambalaya.bash:completion bash" "_jambalaya:completion zsh")
    string(REGEX MATCH "^[^:]*" name ${page})
    string(REGEX REPLACE "^[^:]*:" "" words ${page})
    separate_arguments(words)
    add_custom_command(OUTPUT ${PROJECT_BINARY_DIR}/packaging/${name} DEPENDS jambalaya VERBATIM
      COMMAND jambalaya ${words} > ${PROJECT_BINARY_DIR}/packaging/${name} COMMENT "Writing ${name}")
    list(APPEND pages ${PROJECT_BINARY_DIR}/packaging/${name})
  endforeach()
  add_custom_target(jambalaya_pages ALL DEPENDS ${pages})
  install(FILES ${PROJECT_BINARY_DIR}/packaging/jambalaya.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT program)
  install(FILES ${PROJECT_BINARY_DIR}/packaging/jambalaya.bash RENAME jambalaya
    DESTINATION share/bash-completion/completions COMPONENT program)
  # Debian's zsh looks for packages' functions in vendor-completions and for those of /usr/local in site-functions.
  install(CODE "
    set(folder site-functions)
    if(CMAKE_INSTALL_PREFIX MATCHES \"/usr/*$\")
      set(folder vendor-completions)
    endif()
    file(INSTALL \"${PROJECT_BINARY_DIR}/packaging/_jambalaya\" DESTINATION \"\${CMAKE_INSTALL_PREFIX}/share/zsh/\${folder}\")"
    COMPONENT program)
endif()

include(${CMAKE_CURRENT_LIST_DIR}/debian.cmake)
