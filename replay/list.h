// SPDX-License-Identifier: Apache-2.0
// What there is to choose from: `kvscope replay list [--json|--markdown]` and `kvscope replay explain NAME`.
#pragma once

#include <string>

namespace kvscope {

std::string ListText();
std::string ListJson();
std::string ListMarkdown();  // replay/policies/README.md
// One plug-in or combination in full; throws Error when there is none of that name.
std::string Explain(const std::string& name);

}  // namespace kvscope
