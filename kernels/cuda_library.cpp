#include "kernels/cuda_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "kernels/error.h"

namespace jambalaya {

const char* build_of_cuda_interface() { return JAMBALAYA_CUDA_INTERFACE " " __VERSION__; }

namespace {

/// Where the library may lie, best first.
std::vector<std::string> candidates() {
  if (const char* path = std::getenv("JAMBALAYA_CUDA_LIBRARY")) return {path};
  const std::string name = "libjambalaya_cuda.so";
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return {name};
  const std::filesystem::path here = program.parent_path();
  return {(here / name).string(), (here / "../lib/jambalaya" / name).string(),
          (here / "../lib" / name).string()};
}

/// The loaded library, or null with the reason. It stays loaded: its threads and atexit handlers must not
/// lose their code.
const CudaLibrary* load(std::string& why) {
  std::string tried;
  for (const std::string& path : candidates()) {
    tried += cat(tried.empty() ? "" : ", ", path);
    std::error_code error;
    if (!std::filesystem::exists(path, error)) continue;
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      why = cat("the CUDA library does not load: ", dlerror());
      return nullptr;
    }
    const auto* found = static_cast<const CudaLibrary*>(dlsym(library, "jambalaya_cuda_library"));
    if (!found || std::strcmp(found->build, build_of_cuda_interface()) != 0) {
      why = cat(path, " belongs to another build (", found ? found->build : "no interface", "; this is ",
                build_of_cuda_interface(), "): build program and library together");
      return nullptr;
    }
    return found;
  }
  why = cat("no CUDA library here (looked for ", tried,
            "): build Jambalaya on a machine with the CUDA toolkit, or set JAMBALAYA_CUDA_LIBRARY");
  return nullptr;
}

const CudaLibrary* library(std::string& why) {
  static std::string reason;
  static const CudaLibrary* const found = load(reason);
  why = reason;
  return found;
}

}  // namespace

int cuda_devices(std::string* why) {
  std::string reason;
  const CudaLibrary* found = library(reason);
  const int devices = found ? found->devices(&reason) : 0;
  if (why) *why = reason;
  return devices;
}

bool cuda_fits(int device, std::string* why) {
  std::string reason;
  const CudaLibrary* found = library(reason);
  const bool fits = found && found->fits(device, &reason);
  if (why) *why = reason;
  return fits;
}

std::string cuda_library_contents() {
  std::string why;
  const CudaLibrary* found = library(why);
  return found ? found->contents() : "";
}

std::unique_ptr<Accelerator> open_cuda(int device) {
  std::string why;
  const CudaLibrary* found = library(why);
  if (!found) throw Error(Exit::usage, cat("device cuda: ", why));
  const int devices = found->devices(&why);
  if (devices == 0) throw Error(Exit::usage, cat("device cuda: ", why));
  if (device < 0 || device >= devices)
    throw Error(Exit::usage, cat("device cuda: there is no GPU ", device, " here; this host has ", devices,
                                 " (CUDA_VISIBLE_DEVICES chooses among them)"));
  return std::unique_ptr<Accelerator>(found->open(device));
}

}  // namespace jambalaya
