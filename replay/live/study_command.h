// SPDX-License-Identifier: Apache-2.0
// `kvscope replay study METHOD`: runs a method's whole comparison and writes the page that says what came out.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace kvscope {

// Adds the subcommand; parsing it runs it. command: as one could type it again, shown on the page. Throws Error.
void AddStudyCommand(CLI::App& app, const std::string& command);

}  // namespace kvscope
