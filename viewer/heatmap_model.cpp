// SPDX-License-Identifier: Apache-2.0
#include "viewer/heatmap_model.h"

#include <algorithm>
#include <chrono>

namespace kvscope {
namespace {

constexpr double kSliceSecs = 0.1;  // between two pictures

}  // namespace

MapWindow WindowOf(const TraceDocument& document, const ViewState& view) {
  const int tokens = document.num_tokens();
  MapWindow window = view.window == MapWindow{} ? MapWindow{0, tokens, 0, tokens} : view.window;
  const auto clamp = [tokens](int& begin, int& end) {
    begin = std::clamp(begin, 0, std::max(0, tokens - 1));
    end = std::clamp(end, begin + 1, tokens);
  };
  clamp(window.query_begin, window.query_end);
  clamp(window.token_begin, window.token_end);
  return window;
}

void HeatmapModel::Update(TraceDocument& document, const ViewState& view, int width, int height,
                          const HeatmapColors& colors, Jobs& jobs) {
  if (document.num_tokens() == 0) return;
  const LayerInfo& layer = document.reader().info().layers[view.layer_index];
  const std::shared_ptr<const KvHeadData> data =
      document.KvHead(view.layer_index, view.head_index / layer.HeadsPerKvHead());
  if (!data || data->num_rows == 0 || data->num_tokens == 0) return;
  Request request{&document, data, view, WindowOf(document, view), width, height, colors};
  request.view = {.layer_index = view.layer_index,
                  .head_index = view.head_index,
                  .is_log = view.is_log,
                  .masks_sinks = view.masks_sinks};  // the rest does not change the picture
  request.window.query_end = std::min(request.window.query_end, data->num_tokens);
  request.window.token_end = std::min(request.window.token_end, data->num_tokens);
  if (request.window.query_begin >= request.window.query_end || request.window.token_begin >= request.window.token_end)
    return;
  if (request == request_) return;
  request_ = request;
  map_ = nullptr;
  std::vector<TokenBand> bands;
  for (const LabelledBand& band : document.bands()) bands.push_back({band.token_begin, band.token_end});
  q_token_ = document.reader().q_token(view.layer_index);
  member_ = view.head_index % layer.HeadsPerKvHead();
  score_scale_ = layer.scale;
  StartSlice(std::make_shared<WeightMap>(data, q_token_, member_, layer.scale, request.window, height, width, bands),
             jobs);
}

std::optional<float> HeatmapModel::WeightOf(int query, int token) const {
  if (!request_.data) return {};
  const auto row = std::lower_bound(q_token_.begin(), q_token_.end(), query);
  if (row == q_token_.end() || *row != query) return {};
  return WeightOfPair(*request_.data, member_, static_cast<int>(row - q_token_.begin()), token, score_scale_);
}

// Refines for a while, makes a picture, and goes on with the next slice when that was delivered.
void HeatmapModel::StartSlice(std::shared_ptr<WeightMap> map, Jobs& jobs) {
  jobs.Start("heatmap", [this, map, &jobs, request = request_](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
    const auto begin = std::chrono::steady_clock::now();
    bool goes_on = map->Refine(map->rows(), is_cancelled);  // the first picture: one query of every row
    while (goes_on && !is_cancelled &&
           std::chrono::steady_clock::now() - begin < std::chrono::duration<double>(kSliceSecs)) {
      goes_on = map->Refine(256, is_cancelled);
    }
    HeatmapOptions options;
    options.background = request.colors.background;
    options.is_dark = request.colors.is_dark;
    options.masked_tokens = request.view.masks_sinks ? kSinkTokens : 0;
    options.scale = {request.view.is_log, HighestWeight(*map, options.masked_tokens)};
    const auto image = std::make_shared<const Image>(MakeHeatmapImage(*map, options, request.width, request.height));
    return [this, map, image, options, goes_on, &jobs] {
      image_ = image;
      window_ = map->window();
      scale_ = options.scale;
      progress_ = goes_on ? map->progress() : 1;
      ++generation_;
      if (goes_on) {
        StartSlice(map, jobs);
      } else {
        map_ = map;
      }
    };
  });
}

}  // namespace kvscope
