// SPDX-License-Identifier: Apache-2.0
// Token x layer and token x step behind the heatmap panel: a line for each layer, read one after the other, or for each
// decode step; and their picture. Zooming draws the lines that are there again and computes nothing.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "viewer/heatmap_model.h"

namespace kvscope {

class TokenMapModel {
 public:
  // What the panel shows now; starts or restarts the work behind it when that changed.
  void Update(TraceDocument& document, const ViewState& view, int width, int height, const HeatmapColors& colors,
              Jobs& jobs);

  bool IsOf(const TraceDocument& document) const { return request_.document == &document; }
  const std::string& failure() const { return failure_; }            // why there is nothing to show, in a sentence
  const std::string& source() const { return source_; }              // whose weights, in a few words
  int num_lines() const { return static_cast<int>(lines_.size()); }  // layers or steps, or so many steps together
  int steps_per_line() const { return steps_per_line_; }
  double progress() const;
  // Reduced weight of a token; nothing where the line is not there yet or saw no such token.
  std::optional<float> ValueOf(int line, int token) const;

  // The newest picture and its tokens; that of a view before at first. Null at the start.
  std::shared_ptr<const Image> image() const { return image_; }
  const TokenRange& range() const { return range_; }
  const WeightScale& scale() const { return scale_; }
  int generation() const { return generation_; }  // grows with every picture

  // At most so many lines of steps, and values in them (256 MB): more steps share lines.
  static constexpr int kMostLines = 1024;
  static constexpr int64_t kMostValues = 64 << 20;

 private:
  struct Request {
    const TraceDocument* document = nullptr;
    HeatmapKind kind = HeatmapKind::kLayer;
    RowReduction reduction = RowReduction::kMax;
    LayerHeads layer_heads = LayerHeads::kMax;
    int layer_index = 0, head = -1;  // where they matter; head is absolute, -1: all
    int num_tokens = 0, num_steps = 0;
    friend bool operator==(const Request&, const Request&) = default;
  };
  struct PictureRequest {
    int lines_done = 0, lines_version = 0;
    TokenRange range;
    bool is_log = true, masks_sinks = false;
    int width = 0, height = 0;
    HeatmapColors colors;
    friend bool operator==(const PictureRequest&, const PictureRequest&) = default;
  };
  void StartLayer(TraceDocument& document, int layer_index, Jobs& jobs);
  void StartSteps(TraceDocument& document, const ViewState& view, Jobs& jobs);
  void StartPicture(const PictureRequest& picture, Jobs& jobs);

  Request request_;
  PictureRequest picture_;
  SharedLines lines_;
  int lines_done_ = 0, lines_version_ = 0, steps_per_line_ = 1;
  std::string failure_, source_;
  std::shared_ptr<const Image> image_;
  TokenRange range_;
  WeightScale scale_;
  int generation_ = 0;
};

}  // namespace kvscope
