// SPDX-License-Identifier: Apache-2.0
// What a variant of the method changes, read off its spec, so that a new variant needs no edit of the page.
#pragma once

#include <optional>
#include <string>

#include "core/results.h"

namespace kvscope {

struct Variant {
  bool is_base = false;   // the method as it is
  bool is_other = false;  // another policy altogether
  std::string factor;     // "tracker", "allocator", "granularity", "store", "guards", "every and prefill_chunk", ...
  std::string level;      // "tracker=max", "+uniform", "/block=32", "guards 4+64", ...
};
// A named allocator, reader or granularity is the factor, else the keys that were set, else the store; guards apart.
Variant VariantOf(const ResultRow& row, const std::string& method);
// Value of a key in a row's parameters ("a=1:b=2"); nullopt where it is absent or no number.
std::optional<double> ParameterOf(const ResultRow& row, const std::string& key);

}  // namespace kvscope
