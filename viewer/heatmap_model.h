// SPDX-License-Identifier: Apache-2.0
// The heatmap of one head behind its panel: a map that a job refines slice by slice, and the picture of what is known.
// A map of all tokens has cells of its own, whatever the picture's size, so that another size, another colour scale or
// a second opening (replay/map_cache.h) only paints it again.
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
  // The cells of the picture of this head; null while they are refined.
  std::shared_ptr<const WeightCells> CellsOf(const TraceDocument& document, const ViewState& view) const {
    const bool is_same = request_.document == &document && request_.layer_index == view.layer_index &&
                         request_.head_index == view.head_index;
    return is_same ? exact_ : nullptr;
  }
  // Of one pair, exactly; nothing when the query does not see the token, its row is not stored, or the head is not read
  // yet.
  std::optional<float> WeightOf(int query, int token) const;

  // Cells of a map of all tokens, at most. A file of such a map takes up to 4.2 MB.
  static constexpr int kAllRows = 1024, kAllColumns = 2048;
  static constexpr double kWorthAFileSecs = 1;

 private:
  // Of the map; a change begins it anew.
  struct Request {
    const TraceDocument* document = nullptr;
    int layer_index = 0, head_index = 0;
    MapWindow window;
    int rows = 0, columns = 0;
    int num_tokens = 0, num_rows = 0;  // a file that grows has more of them
    friend bool operator==(const Request&, const Request&) = default;
  };
  // Of its picture.
  struct Look {
    bool is_log = true, masks_sinks = false;
    int width = 0, height = 0;
    HeatmapColors colors;
    friend bool operator==(const Look&, const Look&) = default;
  };
  enum class Stage { kFinding, kWaiting, kRefining, kExact };

  void StartFinding(Jobs& jobs);
  void StartRefining(const TraceDocument& document, std::shared_ptr<const KvHeadData> data, Jobs& jobs);
  void StartSlice(std::shared_ptr<WeightMap> map, double secs, Jobs& jobs);
  void StartPainting(Jobs& jobs);
  struct Picture {
    std::shared_ptr<const Image> image;
    WeightScale scale;
  };
  template <typename Map>
  static Picture Paint(const Map& map, const WeightCells& known, const Look& look);
  void Show(const Picture& picture, const MapWindow& window, const Look& look, double progress);

  Request request_;
  Look look_, shown_look_;
  Stage stage_ = Stage::kWaiting;
  int layer_ = 0, head_ = 0;                  // of the model
  std::shared_ptr<MapCache> cache_;           // null: this map is not kept
  std::shared_ptr<const WeightCells> exact_;  // when it is
  std::weak_ptr<const KvHeadData> data_;      // the document's
  std::vector<int> q_token_;                  // of request_'s layer
  int member_ = 0;                            // of the KV head's group
  AttentionRule rule_;                        // of the layer
  std::shared_ptr<const Image> image_;
  MapWindow window_;
  WeightScale scale_;
  int generation_ = 0;
  double progress_ = 0;
};

// All queries and tokens, or what the view chose of them.
MapWindow WindowOf(const TraceDocument& document, const ViewState& view);

}  // namespace kvscope
