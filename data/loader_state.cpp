#include <nlohmann/json.hpp>

#include "data/loader.h"
#include "kernels/error.h"

namespace jambalaya {

std::string LoaderState::to_json() const {
  const nlohmann::ordered_json json = {{"format", "jambalaya-loader"},
                                       {"version", 1},
                                       {"fingerprint", fingerprint},
                                       {"seed", seed},
                                       {"chunk", chunk},
                                       {"position", position},
                                       {"samples", samples},
                                       {"epoch", epoch}};
  return json.dump();
}

LoaderState LoaderState::parse(const std::string& text) {
  LoaderState state;
  try {
    const auto json = nlohmann::json::parse(text);
    if (json.at("format") != "jambalaya-loader" || json.at("version") != 1)
      throw Error(Exit::checkpoint, "the loader's record is of another format or version");
    state = {.fingerprint = json.at("fingerprint"),
             .seed = json.at("seed"),
             .chunk = json.at("chunk"),
             .position = json.at("position"),
             .samples = json.at("samples"),
             .epoch = json.at("epoch")};
  } catch (const nlohmann::json::exception& error) {
    throw Error(Exit::checkpoint, cat("the loader's record cannot be read: ", error.what()));
  }
  if (state.chunk < 1 || state.position < 0 || state.samples < 0)
    throw Error(Exit::checkpoint,
                cat("the loader's record has position ", state.position, " and chunk ", state.chunk));
  return state;
}

}  // namespace jambalaya
