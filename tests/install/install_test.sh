#!/usr/bin/env bash
# An installation works at another place than it was made for: the program runs, its pages lie where shells and man
# look for them, and another CMake project finds the kernels and gets right numbers from them.
#
#   tests/install/install_test.sh CMAKE BUILD_FOLDER C++_COMPILER
set -euo pipefail
cmake=$1 build=$2 compiler=$3
tree=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d "${TMPDIR:-/tmp}/jambalaya-test-XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder"
prefix=$folder/moved

fail() { echo "FAILED: $*"; exit 1; }

installs() {
  "$cmake" --install "$build" --prefix "$folder/first" >install.log || { cat install.log; fail "cmake --install"; }
  mv first moved
  ! grep -rlE "$tree|$build|$folder/first" moved --include=*.cmake || fail "a CMake file names a folder of the build"
}

program_and_pages_lie_in_their_places() {
  [ "$(moved/bin/jambalaya --version)" = "$("$build/train/jambalaya" --version)" ] || fail "another version"
  diff <(moved/bin/jambalaya man) moved/share/man/man1/jambalaya.1 || fail "the manual page is another's"
  diff <(moved/bin/jambalaya completion bash) moved/share/bash-completion/completions/jambalaya || fail "bash"
  diff <(moved/bin/jambalaya completion zsh) moved/share/zsh/site-functions/_jambalaya || fail "zsh"
  moved/bin/jambalaya config moved/share/jambalaya/configs/readme.yaml >/dev/null || fail "an installed config"
  # The CUDA library is looked for where it is installed: doctor tells what is in it, or where it looked.
  local words="$prefix/bin/../lib/jambalaya/libjambalaya_cuda.so"
  [ ! -e "$build/train/libjambalaya_cuda.so" ] || words="kernels for compute capability"
  env -u JAMBALAYA_CUDA_LIBRARY moved/bin/jambalaya doctor >doctor || fail "doctor"
  grep -qF "$words" doctor || { cat doctor; fail "doctor does not say: $words"; }
}

manual_page_has_no_fault() {
  if command -v mandoc >/dev/null; then
    # A version has no date of its own: the page bears none.
    mandoc -Tlint -W warning moved/share/man/man1/jambalaya.1 | grep -v 'missing date' && fail "mandoc" || true
  fi
  if command -v man >/dev/null; then
    LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -l moved/share/man/man1/jambalaya.1 >page 2>faults || fail "man"
    [ ! -s faults ] || { cat faults; fail "man warns"; }
  fi
}

# example OPTION...: configures and builds the example project.
example() {
  rm -rf scan
  "$cmake" -G Ninja -S "$tree/docs/examples/scan" -B scan -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS="-Wall -Wextra -Werror" "$@" >log 2>&1 &&
    "$cmake" --build scan >>log 2>&1
}

another_project_finds_the_kernels_and_gets_right_numbers() {
  example -DCMAKE_PREFIX_PATH="$prefix" || { cat log; fail "the example does not build"; }
  scan/scan >said || { cat said; fail "the example's numbers are wrong"; }
  grep -q "the scan is right" said || fail "the example says: $(cat said)"
  cat said
}

headers_stand_alone() {
  local header
  for header in moved/include/jambalaya/kernels/*.h; do
    "$compiler" -std=c++20 -fsyntax-only -x c++ -include "$header" -I moved/include/jambalaya /dev/null ||
      fail "${header##*/} needs what is not installed"
  done
}

other_versions_are_not_taken() {
  mkdir wrong
  sed 's/jambalaya 0\.1 REQUIRED/jambalaya 9.9 REQUIRED/' "$tree/docs/examples/scan/CMakeLists.txt" >wrong/CMakeLists.txt
  ! "$cmake" -G Ninja -S wrong -B wrong/build -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$prefix" >log 2>&1 || fail "version 9.9 was found"
  grep -q "version: 0" log || { cat log; fail "the refusal does not name the version that is there"; }
}

for check in installs program_and_pages_lie_in_their_places manual_page_has_no_fault headers_stand_alone \
  another_project_finds_the_kernels_and_gets_right_numbers other_versions_are_not_taken; do
  $check
  echo "passed: $check"
done
