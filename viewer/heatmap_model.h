// SPDX-License-Identifier: Apache-2.0
// The heatmap of one head behind its panel: a map that a job refines slice by slice, and the picture of what is known.
#pragma once

#include <memory>
#include <optional>

#include "viewer/heatmap_image.h"
#include "viewer/jobs.h"
#include "viewer/trace_document.h"
#include "viewer/view_state.h"

namespace kvscope {

struct HeatmapColors {
  bool is_dark = false;
  uint32_t background = 0xffffffff;  // 0xAABBGGRR
  friend bool operator==(const HeatmapColors&, const HeatmapColors&) = default;
};

class HeatmapModel {
 public:
  // What the panel shows now; starts or restarts the work behind it when that changed.
  void Update(TraceDocument& document, const ViewState& view, int width, int height, const HeatmapColors& colors,
              Jobs& jobs);

  // The newest picture; its window may be that of a view before. Null at the start.
  std::shared_ptr<const Image> image() const { return image_; }
  int generation() const { return generation_; }  // grows with every picture
  const MapWindow& window() const { return window_; }
  const WeightScale& scale() const { return scale_; }
  double progress() const { return progress_; }  // 1: exact everywhere
  // The cells of the picture; null while they are refined.
  std::shared_ptr<const WeightMap> map() const { return map_; }
  // Of one pair, exactly; nothing when the query's row is not stored.
  std::optional<float> WeightOf(int query, int token) const;

 private:
  struct Request {
    const TraceDocument* document = nullptr;
    std::shared_ptr<const KvHeadData> data;
    ViewState view;
    MapWindow window;
    int width = 0, height = 0;
    HeatmapColors colors;
    friend bool operator==(const Request&, const Request&) = default;
  };
  void StartSlice(std::shared_ptr<WeightMap> map, Jobs& jobs);

  Request request_;
  std::vector<int> q_token_;  // of request_'s layer
  int member_ = 0;            // of the KV head's group
  float score_scale_ = 1;
  std::shared_ptr<const Image> image_;
  std::shared_ptr<const WeightMap> map_;
  MapWindow window_;
  WeightScale scale_;
  int generation_ = 0;
  double progress_ = 0;
};

// All queries and tokens, or what the view chose of them.
MapWindow WindowOf(const TraceDocument& document, const ViewState& view);

}  // namespace kvscope
