// SPDX-License-Identifier: Apache-2.0
#include "viewer/history.h"

#include <utility>

namespace kvscope {

void History::Record(const ViewState& view) {
  if (view == now_) return;
  past_.push_back(std::exchange(now_, view));
  if (past_.size() > kMostSteps) past_.pop_front();
  future_.clear();
}

std::optional<ViewState> History::Undo() {
  if (past_.empty()) return {};
  future_.push_back(std::exchange(now_, past_.back()));
  past_.pop_back();
  return now_;
}

std::optional<ViewState> History::Redo() {
  if (future_.empty()) return {};
  past_.push_back(std::exchange(now_, future_.back()));
  future_.pop_back();
  return now_;
}

}  // namespace kvscope
