#include "train/run/environment.h"

#include "parallel/hosts.h"
#include "parallel/mpi_version.h"
#include "train/commands/help_text.h"
#include "train/machine.h"

namespace jambalaya {

Json describe_environment(Runtime& runtime, Precision precision) {
  const Machine machine = look_at_machine();
  Mesh& mesh = runtime.mesh();
  std::vector<std::string> hosts;
  for (int r = 0; r < mesh.world().size(); r++) hosts.push_back(mesh.host_of(r));
  Json facts = Json::make_object();
  facts.set("version", version_text());
  facts.set("ranks", int64_t(mesh.world().size())).set("threads_per_rank", int64_t(runtime.threads()));
  facts.set("layout", describe_fully(mesh.layout())).set("hosts", describe_hosts(hosts));
  facts.set("device", runtime.device_text()).set("kernels", runtime.context().ops->name());
  facts.set("precision", precision == Precision::bf16 ? "bf16 with fp32 masters" : "fp32");
  facts.set("processor", machine.cpu_model).set("cores", int64_t(machine.online_cores));
  facts.set("memory_bytes", machine.memory_total);
  const std::string compiler = __VERSION__;  // Clang's begins with its name
  facts.set("compiler", compiler[0] >= '0' && compiler[0] <= '9' ? "GCC " + compiler : compiler)
      .set("hdf5", hdf5_version());
  if (const std::string mpi = mpi_library_version(); !mpi.empty())
    facts.set("mpi", mpi.substr(0, mpi.find(',')));
  return facts;
}

}  // namespace jambalaya
