// SPDX-License-Identifier: Apache-2.0
// `kvscope replay live`: policies inside the decoder, one row per (prompt, protocol, policy, budget).
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace kvscope {

// Adds the subcommand; parsing it runs it. command: as one could type it again, kept in the results. Throws Error.
void AddLiveCommand(CLI::App& app, const std::string& command);

}  // namespace kvscope
