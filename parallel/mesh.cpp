#include "parallel/mesh.h"

#include <utility>

namespace jambalaya {

Mesh::Mesh(std::unique_ptr<Communicator> world, Layout layout) : world_(std::move(world)), layout_(layout) {
  const int ranks = world_->size();
  auto degrees = [](const Layout& l) {
    return cat("data=", l.data, " context=", l.context, " tensor=", l.tensor, " expert=", l.expert);
  };
  if (layout_.data == 0 && layout_.context > 0 && layout_.tensor > 0)
    layout_.data = ranks / (layout_.context * layout_.tensor);
  const bool known = layout_.context == 1 && layout_.tensor == 1 && layout_.expert == 1;
  if (!known || layout_.data != ranks)
    throw Error(
        Exit::layout,
        cat("parallel: ", degrees(layout_), " is not a layout of ", ranks, ranks == 1 ? " rank" : " ranks",
            "; this version runs data parallelism, so the one admissible layout here is data=", ranks,
            " context=1 tensor=1 expert=1 (or start mpirun -n ", layout_.data > 0 ? layout_.data : 1, ")"));
  data_ = world_->split(0, "data");
}

}  // namespace jambalaya
