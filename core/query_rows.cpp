// SPDX-License-Identifier: Apache-2.0
#include "core/query_rows.h"

#include <charconv>
#include <string>

namespace kvscope {
namespace {

// The number after `prefix`, or 0 when the part is something else.
int CountAfter(std::string_view part, std::string_view prefix) {
  if (!part.starts_with(prefix)) return 0;
  int count = 0;
  const auto [end, error] = std::from_chars(part.data() + prefix.size(), part.data() + part.size(), count);
  return error == std::errc() && end == part.data() + part.size() && count > 0 ? count : 0;
}

}  // namespace

QueryRows::QueryRows(std::string_view spec, int prompt_tokens, const std::vector<Segment>& segments)
    : prompt_tokens_(prompt_tokens) {
  ends_.push_back(prompt_tokens);
  for (const Segment& segment : segments) {
    if (segment.decide_at) ends_.push_back(segment.token_end);
  }
  for (size_t begin = 0; begin <= spec.size();) {
    const size_t end = std::min(spec.find('+', begin), spec.size());
    const std::string_view part = spec.substr(begin, end - begin);
    if (part == "all") {
      all_ = true;
    } else if (const int last = CountAfter(part, "last:")) {
      last_ = last;
    } else if (const int stride = CountAfter(part, "stride:")) {
      stride_ = stride;
    } else {
      throw Error(StrCat("query rows '", spec, "': expected all, last:N, stride:N or parts joined by +, found '", part,
                         "'; for example last:64+stride:64"));
    }
    begin = end + 1;
  }
}

bool QueryRows::Keeps(int token) const {
  if (all_ || token >= prompt_tokens_) return true;
  if (stride_ && token % stride_ == 0) return true;
  for (const int end : ends_) {
    if (token < end && token >= end - last_) return true;
  }
  return false;
}

}  // namespace kvscope
