# Runs that are killed, starved of disk, torn and flipped: docs/reliability.md names what each test holds.
jambalaya_tests(faults jambalaya::train)
add_library(bad_disk SHARED faults/bad_disk.cpp)
target_link_libraries(bad_disk PRIVATE ${CMAKE_DL_LIBS})
foreach(test faults_flipped_bit_test faults_full_disk_test faults_signals_test)
  add_dependencies(${test} jambalaya bad_disk)
  target_compile_definitions(${test} PRIVATE JAMBALAYA_PROGRAM="$<TARGET_FILE:jambalaya>"
    JAMBALAYA_BAD_DISK="$<TARGET_FILE:bad_disk>")
  if(JAMBALAYA_MPI)
    target_compile_definitions(${test} PRIVATE JAMBALAYA_MPIEXEC="${MPIEXEC_EXECUTABLE}")
  endif()
endforeach()
if(JAMBALAYA_MPI)
  add_test(NAME faults_resume_test_2_ranks
    COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} 2 --oversubscribe --bind-to none $<TARGET_FILE:faults_resume_test>)
  set_tests_properties(faults_resume_test_2_ranks PROPERTIES ENVIRONMENT "${mpi_environment}" TIMEOUT 600 LABELS faults PROCESSORS 2)
  add_test(NAME faults_crash_test
    COMMAND ${PROJECT_SOURCE_DIR}/scripts/crash_test --kills 10 --jambalaya $<TARGET_FILE:jambalaya>
      --mpirun ${MPIEXEC_EXECUTABLE} --slow-disk $<TARGET_FILE:bad_disk>)
  set_tests_properties(faults_crash_test PROPERTIES TIMEOUT 600 LABELS faults PROCESSORS 2)
endif()
# Thousands of small files, each forced to the disk: memory takes them as well as any disk does.
if(EXISTS /dev/shm)
  foreach(test faults_resume_test faults_resume_test_2_ranks faults_flipped_bit_test faults_full_disk_test
      faults_signals_test)
    if(TEST ${test})
      set_property(TEST ${test} APPEND PROPERTY ENVIRONMENT TMPDIR=/dev/shm)
    endif()
  endforeach()
endif()
