// SPDX-License-Identifier: Apache-2.0
// Undo and redo of what is chosen: it remembers views, the newest 200.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "viewer/view_state.h"

namespace kvscope {

class History {
 public:
  static constexpr size_t kMostSteps = 200;

  explicit History(ViewState first = {}) : now_(std::move(first)) {}
  // The view that somebody chose. A step when it differs from the last one; call it when nothing is held, so that a
  // drag is one step.
  void Record(const ViewState& view);
  // The view that the program corrected by itself, as an index that a file does not have: not a step.
  void Amend(const ViewState& view) { now_ = view; }
  const ViewState& now() const { return now_; }

  bool can_undo() const { return !past_.empty(); }
  bool can_redo() const { return !future_.empty(); }
  // The view to show; nothing when there is none.
  std::optional<ViewState> Undo();
  std::optional<ViewState> Redo();

 private:
  ViewState now_;
  std::deque<ViewState> past_;     // the newest last
  std::vector<ViewState> future_;  // the nearest last
};

}  // namespace kvscope
