// SPDX-License-Identifier: Apache-2.0
#include "viewer/heatmap_model.h"

#include <algorithm>
#include <chrono>

namespace kvscope {
namespace {

constexpr const char* kSlot = "heatmap";
constexpr double kSliceSecs = 0.2;  // between two pictures
constexpr int kSliceRows = 512;     // looked at before the clock is

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
  const int tokens = document.num_tokens();
  if (tokens == 0) return;
  const LayerInfo& layer = document.reader().info().layers[view.layer_index];
  const std::shared_ptr<const KvHeadData> data =
      document.KvHead(view.layer_index, view.head_index / layer.HeadsPerKvHead());
  data_ = data;
  Request request{&document,       view.layer_index,
                  view.head_index, WindowOf(document, view),
                  height,          width,
                  tokens,          static_cast<int>(document.reader().q_token(view.layer_index).size())};
  if (request.num_rows == 0) return;
  const bool is_all = request.window == MapWindow{0, tokens, 0, tokens};
  if (is_all) request.rows = std::min(tokens, kAllRows), request.columns = std::min(tokens, kAllColumns);
  look_ = {view.is_log, view.masks_sinks, width, height, colors};
  if (request != request_) {
    request_ = request;
    exact_ = nullptr;
    layer_ = layer.layer, head_ = layer.heads[view.head_index];
    q_token_ = document.reader().q_token(view.layer_index);
    member_ = view.head_index % layer.HeadsPerKvHead();
    rule_ = RuleOf(layer);
    cache_ = is_all ? document.maps() : nullptr;
    jobs.Cancel(kSlot);
    stage_ = cache_ ? Stage::kFinding : Stage::kWaiting;
    if (cache_) StartFinding(jobs);
  }
  if (stage_ == Stage::kWaiting && data) StartRefining(document, data, jobs);
  if (stage_ == Stage::kExact && look_ != shown_look_ && !jobs.IsBusy(kSlot)) StartPainting(jobs);
}

std::optional<float> HeatmapModel::WeightOf(int query, int token) const {
  const std::shared_ptr<const KvHeadData> data = data_.lock();
  if (!data || token > query || token < rule_.FirstSeen(query)) return {};
  const auto row = std::lower_bound(q_token_.begin(), q_token_.end(), query);
  if (row == q_token_.end() || *row != query) return {};
  return WeightOfPair(*data, member_, static_cast<int>(row - q_token_.begin()), token, rule_);
}

// A map from before, whole at once; else the head is waited for.
void HeatmapModel::StartFinding(Jobs& jobs) {
  jobs.Start(kSlot,
             [this, cache = cache_, request = request_, layer = layer_, head = head_,
              look = look_](const std::atomic<bool>&) -> Jobs::Finish {
               const auto found = cache->Find(layer, head, request.window, request.rows, request.columns);
               const Picture picture = found ? Paint(*found, *found, look) : Picture{};
               return [this, found, picture, look] {
                 stage_ = found ? Stage::kExact : Stage::kWaiting;
                 exact_ = found;
                 if (found) Show(picture, found->window, look, 1);
               };
             });
}

void HeatmapModel::StartRefining(const TraceDocument& document, std::shared_ptr<const KvHeadData> data, Jobs& jobs) {
  stage_ = Stage::kRefining;
  std::vector<TokenBand> bands;
  for (const LabelledBand& band : document.bands()) bands.push_back({band.token_begin, band.token_end});
  StartSlice(std::make_shared<WeightMap>(std::move(data), q_token_, member_, rule_, request_.window, request_.rows,
                                         request_.columns, bands),
             0, jobs);
}

// Refines for a while, makes a picture, and goes on with the next slice when that was delivered. secs: what the map
// took so far.
void HeatmapModel::StartSlice(std::shared_ptr<WeightMap> map, double secs, Jobs& jobs) {
  jobs.Start(kSlot,
             [this, map, secs, &jobs, cache = cache_, layer = layer_, head = head_,
              look = look_](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
               const auto begin = std::chrono::steady_clock::now();
               const auto elapsed = [&] {
                 return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
               };
               bool goes_on = map->progress() == 0 ? map->Refine(map->first_rows(), is_cancelled) : true;
               while (goes_on && !is_cancelled && elapsed() < kSliceSecs)
                 goes_on = map->Refine(kSliceRows, is_cancelled);
               if (is_cancelled) return {};
               const Picture picture = Paint(*map, map->known(), look);
               const double total = secs + elapsed();
               std::shared_ptr<const WeightCells> exact;
               if (!goes_on) {
                 exact = std::make_shared<const WeightCells>(map->known());
                 if (cache) cache->Keep(layer, head, exact, total > kWorthAFileSecs);
               }
               return [this, map, exact, picture, look, total, &jobs] {
                 Show(picture, map->window(), look, exact ? 1 : map->progress());
                 exact_ = exact;
                 stage_ = exact ? Stage::kExact : Stage::kRefining;
                 if (!exact) StartSlice(map, total, jobs);
               };
             });
}

void HeatmapModel::StartPainting(Jobs& jobs) {
  jobs.Start(kSlot, [this, exact = exact_, look = look_](const std::atomic<bool>&) -> Jobs::Finish {
    const Picture picture = Paint(*exact, *exact, look);
    return [this, exact, picture, look] { Show(picture, exact->window, look, 1); };
  });
}

template <typename Map>
HeatmapModel::Picture HeatmapModel::Paint(const Map& map, const WeightCells& known, const Look& look) {
  HeatmapOptions options;
  options.background = look.colors.background;
  options.is_dark = look.colors.is_dark;
  options.masked_tokens = look.masks_sinks ? kSinkTokens : 0;
  options.scale = {look.is_log, HighestWeight(known, options.masked_tokens)};
  return {std::make_shared<const Image>(MakeHeatmapImage(map, options, look.width, look.height)), options.scale};
}

void HeatmapModel::Show(const Picture& picture, const MapWindow& window, const Look& look, double progress) {
  image_ = picture.image;
  scale_ = picture.scale;
  window_ = window;
  shown_look_ = look;
  progress_ = progress;
  ++generation_;
}

}  // namespace kvscope
