// SPDX-License-Identifier: Apache-2.0
// All heads behind the overview: a job goes through the layers and the picture of thumbnails grows.
#pragma once

#include <memory>
#include <vector>

#include "replay/head_overview.h"
#include "viewer/heatmap_model.h"
#include "viewer/image.h"
#include "viewer/jobs.h"
#include "viewer/trace_document.h"
#include "viewer/view_state.h"

namespace kvscope {

inline constexpr const char* kHeadOrderNames[] = {"layer and head", "needle weight", "entropy", "sink weight",
                                                  "locality"};

struct HeadEntry {
  int layer_index = 0, head_index = 0;
  HeadOverview overview;
};

// Where entries go, first first: by layer, or the largest first (entropy: the smallest, the most decided heads). NaN
// comes last, ties stay by layer and head.
std::vector<int> OrderOf(const std::vector<HeadEntry>& entries, HeadOrder order);

class OverviewModel {
 public:
  void Update(TraceDocument& document, const HeatmapColors& colors, Jobs& jobs);

  const std::vector<HeadEntry>& entries() const { return entries_; }  // by layer and head; those known so far
  // Thumbnails, kThumbPixels wide and high, kThumbColumns in a row, in the order of entries.
  std::shared_ptr<const Image> image() const { return image_; }
  int generation() const { return generation_; }
  const std::string& failure() const { return failure_; }
  double progress() const;

  static constexpr int kThumbPixels = 64, kThumbColumns = 32;

 private:
  void StartLayer(TraceDocument& document, int layer_index, Jobs& jobs);

  const TraceDocument* document_ = nullptr;
  int num_tokens_ = 0;
  HeatmapColors colors_;
  std::vector<HeadEntry> entries_;
  std::shared_ptr<const Image> image_;
  int generation_ = 0, num_layers_ = 0, layers_done_ = 0;
  std::string failure_;
};

}  // namespace kvscope
