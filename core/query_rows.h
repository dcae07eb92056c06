// SPDX-License-Identifier: Apache-2.0
// Which rows of q and lse a trace keeps: "all", or parts joined by '+', of which any suffices:
//   last:64    the last 64 rows of the prompt, and of every segment at whose end a policy decides
//   stride:64  tokens divisible by 64
// Rows after the prompt are always kept.
#pragma once

#include <string_view>
#include <vector>

#include "core/trace.h"

namespace kvscope {

class QueryRows {
 public:
  // Throws Error for a text that is none of the above.
  QueryRows(std::string_view spec, int prompt_tokens, const std::vector<Segment>& segments);
  bool all() const { return all_; }
  bool Keeps(int token) const;

 private:
  bool all_ = false;
  int last_ = 0, stride_ = 0;
  std::vector<int> ends_;  // rows within last_ before one of these are kept
  int prompt_tokens_ = 0;
};

}  // namespace kvscope
