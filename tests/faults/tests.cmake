# Runs that are killed, starved of disk, torn and flipped: docs/reliability.md names what each test holds.
jambalaya_tests(faults jambalaya::train)
foreach(test faults_flipped_bit_test)
  add_dependencies(${test} jambalaya)
  target_compile_definitions(${test} PRIVATE JAMBALAYA_PROGRAM="$<TARGET_FILE:jambalaya>")
  if(JAMBALAYA_MPI)
    target_compile_definitions(${test} PRIVATE JAMBALAYA_MPIEXEC="${MPIEXEC_EXECUTABLE}")
  endif()
endforeach()
